"""Which device to use, and arithmetic that gives the same bits each time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from fastdc.errors import UsageError


def resolve_device(device: str | torch.device) -> torch.device:
    """The device called `device`; "auto" is a CUDA device where there is one, else the CPU.

    Raises:
        UsageError: a device that does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        raise UsageError(f"unknown device {device!r}; expected auto, cpu, cuda or cuda:N.") from None
    if resolved.type not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is not supported; expected auto, cpu, cuda or cuda:N.")
    if resolved.type == "cuda" and (not torch.cuda.is_available() or (resolved.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"device {device!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices. Use 'cpu' or 'auto'.")
    return resolved


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 products and deterministic convolutions on GPUs; what was set before is put back."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
