"""Why a backend cannot serve: what several of them ask."""

from __future__ import annotations

import torch

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # of the gradients that kernels are compiled for


def against_device(device: torch.device, kind: str) -> list[str]:
    """Every reason why a backend for `kind`, cpu or cuda, cannot work on tensors of `device`."""
    reasons = [] if device.type == kind else [f"it works on {kind.upper()} tensors"]
    if kind == "cuda" and not torch.cuda.is_available():
        reasons.append("torch sees no CUDA device")
    elif device.type == kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        reasons.append(f"torch sees no {device}")
    return reasons


def against_dtype(dtype: torch.dtype) -> list[str]:
    """The reason why a compiled kernel does not take `dtype`, or nothing."""
    return [] if dtype in DTYPES else [f"{dtype} is none of {', '.join(str(each).removeprefix('torch.') for each in DTYPES)}"]
