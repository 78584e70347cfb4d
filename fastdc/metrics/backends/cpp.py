"""The cpp backend: compiled C++ on the CPU (csrc/cpu/layerwise_distance.h)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastdc.metrics.backends.reasons import against_device, against_dtype
from fastdc.metrics.tiles import tiles_of
from fastdc.parallel.threads import compute_threads
from fastdc.runtime import compiled

MEANT_FOR = "cpu"

_MOST_KEPT = 64 << 20  # bytes of memory that are held on to
_kept: dict[int, torch.UntypedStorage] = {}  # one of each size in bytes


def unsupported_reasons(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Every reason why tensors on this device, of this dtype, cannot be served."""
    missing: list[str] = [f"fastdc._C is not there ({compiled.state('cpp')})"] if compiled.extension is None else []
    return [*missing, *against_device(device, "cpu"), *against_dtype(dtype)]


def metrics() -> tuple[str, ...]:
    """The names of the metrics that the extension has code for."""
    assert compiled.extension is not None
    return tuple(compiled.extension.METRICS)


def layerwise_distance(synthetic: Tensor, real: Tensor, segments: tuple[int, ...], metric: str) -> tuple[Tensor, Tensor]:
    """The distance [C] of gradients [C, P], and its cotangent [C, P]; see `fastdc.metrics.operator`."""
    distance = torch.empty(len(synthetic), dtype=torch.promote_types(synthetic.dtype, torch.float32))
    cotangent = _empty(synthetic.shape, synthetic.dtype)
    tiles = tiles_of(segments, synthetic.shape[1], synthetic.device)
    assert compiled.extension is not None
    compiled.extension.layerwise_distance(
        _array(synthetic), _array(real), _array(tiles), metric, _array(distance), _array(cotangent), threads=compute_threads()
    )
    return distance, cotangent


def _empty(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A tensor of any content, in the memory of the last one of its size where nobody holds that any more.

    The system maps large memory anew each time it is allocated, page by page, which takes longer than the kernel does.
    """
    wanted = shape.numel() * dtype.itemsize
    kept = _kept.pop(wanted, None)  # in one step: no other thread can take it as well
    if kept is None or torch._C._storage_Use_Count(kept._cdata) > 1:
        kept = torch.empty(shape, dtype=dtype).untyped_storage()
    result = torch.empty(0, dtype=dtype).set_(kept, 0, shape)  # type: ignore[call-overload]
    _kept[wanted] = kept  # only now that the result holds it, so that no other thread finds it free
    for size in list(_kept):  # the oldest first
        if sum(list(_kept)) > _MOST_KEPT:
            _kept.pop(size, None)
    return result


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory; bfloat16, which numpy lacks, as uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
