"""The cpp backend: compiled C++ on the CPU (csrc/cpu/layerwise_distance.h)."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastdc.metrics.backends.reasons import DTYPES, against_device, against_dtype
from fastdc.metrics.layout import layout_of
from fastdc.metrics.tiles import tiles_of
from fastdc.parallel.threads import compute_threads
from fastdc.runtime import compiled

MEANT_FOR = "cpu"

_NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in DTYPES}
_LEAST_KEPT = 128 << 10  # bytes: smaller memory the allocator keeps itself
_MOST_KEPT = 64 << 20  # bytes of memory that are held on to
_kept: dict[int, deque[torch.UntypedStorage]] = {}  # by size in bytes, those that were given out longest ago first


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
    cotangent = _empty(synthetic.shape, synthetic.dtype)
    distance = torch.empty(len(synthetic), dtype=torch.promote_types(synthetic.dtype, torch.float32))
    a, b, out = ([_array(tensor)] for tensor in (synthetic, real, cotangent))
    tiles = tiles_of(segments, synthetic.shape[1], synthetic.device).numpy()
    assert compiled.extension is not None
    compiled.extension.layerwise_distance(a, b, tiles, metric, distance.numpy(), out, threads=compute_threads())
    return distance, cotangent


def layerwise_distances(synthetic: Sequence[Tensor], real: Sequence[Tensor], metric: str) -> tuple[Tensor, list[Tensor]]:
    """The distance of two lists of gradients, and its cotangents, in one call; see `fastdc.metrics.operator`."""
    dtype = synthetic[0].dtype
    sizes, tiles = _cut_of(tuple(gradient.shape for gradient in synthetic))
    cotangents = [_empty(gradient.shape, dtype) for gradient in synthetic]
    held = [[gradient.contiguous() for gradient in gradients] for gradients in (synthetic, real)]
    a, b, out = ([tensor.data_ptr() for tensor in tensors] for tensors in (*held, cotangents))
    assert compiled.extension is not None
    distance = compiled.extension.layerwise_distance_at(_NAMES[dtype], sizes, a, b, tiles, metric, out, threads=compute_threads())
    return torch.tensor(distance, dtype=torch.promote_types(dtype, torch.float32)), cotangents


@functools.lru_cache(maxsize=256)
def _cut_of(shapes: tuple[tuple[int, ...], ...]) -> tuple[list[int], np.ndarray]:
    """The elements of each gradient of these shapes, and the tiles of all."""
    layout = layout_of(shapes)
    return [parameter.size for parameter in layout.parameters], tiles_of(layout.segments(), layout.size, torch.device("cpu")).numpy()


def _empty(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A tensor of any content; a large one in the memory of an earlier one of its size that nobody holds any more.

    The system maps large memory anew each time it is allocated, page by page, which takes longer than the kernel does.
    """
    wanted = shape.numel() * dtype.itemsize
    if wanted < _LEAST_KEPT:
        return torch.empty(shape, dtype=dtype)
    storage = _unheld(wanted) or torch.empty(shape, dtype=dtype).untyped_storage()
    result = torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload]
    _kept.setdefault(wanted, deque()).append(storage)  # only now that the result holds it, so that no other thread finds it free
    if sum(size * len(kept) for size, kept in list(_kept.items())) > _MOST_KEPT:
        _kept.clear()
    return result


def _unheld(wanted: int) -> torch.UntypedStorage | None:
    """Memory of that many bytes that is kept and that nobody holds; taken out, so that no other thread can have it as well."""
    kept = _kept.get(wanted, deque())
    for _ in range(len(kept)):
        try:
            storage = kept.popleft()
        except IndexError:  # other threads have taken the rest
            return None
        if torch._C._storage_Use_Count(storage._cdata) > 1:
            kept.append(storage)
        elif not storage.is_shared():  # with another process, which may hold it
            return storage
    return None


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory; bfloat16, which numpy lacks, as uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
