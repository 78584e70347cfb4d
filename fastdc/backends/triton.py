"""The triton backend: one Triton kernel on GPUs (fastdc.kernels); under TRITON_INTERPRET=1 on the CPU, for tests."""

from __future__ import annotations

import contextlib
import importlib.util
import os

import torch
from torch import Tensor

from fastdc.tiles import tiles_of

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def unsupported_reasons(device_type: str, dtype: torch.dtype) -> list[str]:
    """Every reason why tensors on such a device, of this dtype, cannot be served."""
    reasons = []
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if importlib.util.find_spec("triton") is None:
        reasons.append("triton is not installed")
    if interpreted and device_type != "cpu":
        reasons.append("TRITON_INTERPRET=1 is set, and then it works on CPU tensors")
    if not interpreted and device_type != "cuda":
        reasons.append("it works on CUDA tensors")
    if not interpreted and not torch.cuda.is_available():
        reasons.append("torch sees no CUDA device")
    if dtype not in _DTYPES:
        reasons.append(f"{dtype} is none of float32, float64, float16, bfloat16")
    return reasons


def layerwise_distance(synthetic: Tensor, real: Tensor, segments: tuple[int, ...], metric: str) -> tuple[Tensor, Tensor]:
    """The distance [C] of gradients [C, P], and its cotangent [C, P]; see `fastdc.distance`."""
    from fastdc.kernels import layerwise_distance as kernel  # here, so that fastdc imports without Triton

    tiles = tiles_of(segments, synthetic.shape[1], synthetic.device)
    # Triton launches on the current device, which need not be the gradients'.
    with torch.cuda.device(synthetic.device) if synthetic.is_cuda else contextlib.nullcontext():
        return kernel.layerwise_distance(synthetic, real, tiles, metric)
