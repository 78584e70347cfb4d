"""How a kernel is launched: on the device of its tensors, which need not be the current one; where there is nothing to do not at all."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor


def launch(kernel: Any, programs: int, like: Tensor, *arguments: Any, **constants: Any) -> None:
    """Launch that many programs of a kernel on the device of `like`, its first argument; `constants` are its own and those of Triton."""
    if programs:
        with torch.cuda.device(like.device) if like.is_cuda else contextlib.nullcontext():
            kernel[(programs,)](like, *arguments, **constants)
