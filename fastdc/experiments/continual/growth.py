"""A network that has learned some classes, made ready for more."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastdc.errors import UsageError


def grow(module: nn.Module, older: nn.Module) -> nn.Module:
    """Give a fresh network what an older one of fewer classes has learned: `module` itself, changed.

    Every parameter and buffer of the same shape is copied; of one with more rows, as the last layer's has, the first rows. So the
    logits of the old classes are those of the older network.

    Raises:
        UsageError: the two differ in more than rows.

    Example:
        >>> grow(nn.Linear(4, 3), older := nn.Linear(4, 2)).weight[:2].equal(older.weight)
        True
    """
    known: dict[str, Tensor] = older.state_dict()
    with torch.no_grad():
        for name, value in module.state_dict().items():
            old = known.get(name)
            if old is None or (old.shape != value.shape and (not value.dim() or old.shape[1:] != value.shape[1:] or len(old) > len(value))):
                found = "nothing" if old is None else list(old.shape)
                raise UsageError(
                    f"{type(module).__name__} cannot grow: {name} is {list(value.shape)} for more classes and {found} for fewer; "
                    "expected networks that differ in the rows of their last layer alone."
                )
            if old.shape == value.shape:
                value.copy_(old)
            else:
                value[: len(old)] = old
    return module
