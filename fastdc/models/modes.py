"""The modes of a network and of each of its parts, training or evaluation, kept while work needs others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Afterwards every part is in the mode that it was in, also one in another mode than the whole, such as a norm that is frozen."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
