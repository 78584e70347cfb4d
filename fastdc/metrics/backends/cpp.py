"""The cpp backend: compiled C++ on the CPU (csrc/cpu/layerwise_distance.h)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastdc.metrics.backends.reasons import against_device, against_dtype
from fastdc.metrics.layout import layout_of
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
    tiles = tiles_of(segments, synthetic.shape[1], synthetic.device)
    distance, cotangents = _of_parts([synthetic], [real], tiles, metric)
    return distance, cotangents[0]


def layerwise_distances(synthetic: Sequence[Tensor], real: Sequence[Tensor], metric: str) -> tuple[Tensor, list[Tensor]]:
    """The distance of two lists of gradients, and its cotangents, in one call; see `fastdc.metrics.operator`."""
    tiles = _tiles_of_shapes(tuple(gradient.shape for gradient in synthetic))
    a, b = ([gradient.reshape(1, -1) for gradient in gradients] for gradients in (synthetic, real))
    distance, cotangents = _of_parts(a, b, tiles, metric)
    return distance[0], [cotangent.view(gradient.shape) for cotangent, gradient in zip(cotangents, synthetic, strict=True)]


@functools.lru_cache(maxsize=256)
def _tiles_of_shapes(shapes: tuple[tuple[int, ...], ...]) -> Tensor:
    layout = layout_of(shapes)
    return tiles_of(layout.segments(), layout.size, torch.device("cpu"))


def _of_parts(synthetic: Sequence[Tensor], real: Sequence[Tensor], tiles: Tensor, metric: str) -> tuple[Tensor, list[Tensor]]:
    """The distance [C] of gradients that lie in parts [C, size] one after another, and its cotangent in the same parts."""
    distance = torch.empty(len(synthetic[0]), dtype=torch.promote_types(synthetic[0].dtype, torch.float32))
    cotangents = [_empty(part.shape, part.dtype) for part in synthetic]
    arrays = [[_array(part) for part in parts] for parts in (synthetic, real, cotangents)]
    assert compiled.extension is not None
    compiled.extension.layerwise_distance(
        arrays[0], arrays[1], _array(tiles), metric, _array(distance), arrays[2], threads=compute_threads()
    )
    return distance, cotangents


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
