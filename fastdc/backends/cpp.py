"""The cpp backend: compiled C++ on the CPU (csrc/cpu/layerwise_distance.h)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastdc import compiled
from fastdc.tiles import tiles_of

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def unsupported_reasons(device_type: str, dtype: torch.dtype) -> list[str]:
    """Every reason why tensors on such a device, of this dtype, cannot be served."""
    reasons = []
    if compiled.extension is None:
        reasons.append(f"fastdc._C is not there ({compiled.state('cpp')})")
    if device_type != "cpu":
        reasons.append("it works on CPU tensors")
    if dtype not in _DTYPES:
        reasons.append(f"{dtype} is none of float32, float64, float16, bfloat16")
    return reasons


def layerwise_distance(synthetic: Tensor, real: Tensor, segments: tuple[int, ...], metric: str) -> tuple[Tensor, Tensor]:
    """The distance [C] of gradients [C, P], and its cotangent [C, P]; see `fastdc.distance`."""
    distance = torch.empty(len(synthetic), dtype=torch.promote_types(synthetic.dtype, torch.float32))
    cotangent = torch.empty(synthetic.shape, dtype=synthetic.dtype)
    tiles = tiles_of(segments, synthetic.shape[1], synthetic.device)
    given, result = [_array(value) for value in (synthetic, real, tiles)], [_array(value) for value in (distance, cotangent)]
    assert compiled.extension is not None
    compiled.extension.layerwise_distance(*given, metric, *result, threads=torch.get_num_threads())
    return distance, cotangent


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory; bfloat16, which numpy lacks, as uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
