"""The layer-wise distance on a CUDA device: one launch of the compiled kernel for all layers and classes."""

from __future__ import annotations

import ctypes
import functools
import itertools
from pathlib import Path

import torch
from torch import Tensor

from fastdc.errors import RunError
from fastdc.metrics.backends.one_by_one import one_by_one
from fastdc.metrics.backends.reasons import against_device, against_dtype
from fastdc.metrics.tiles import tiles_of
from fastdc.parallel.devices import is_capturing
from fastdc.runtime import compiled

MEANT_FOR = "cuda"

_LIBRARY = Path(__file__).parents[2] / "_cuda.so"
_DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}

# By device and stream. Kernels on one stream run one after another and leave their tickets at 0, so they can share a buffer that is
# cleared once; kernels on two streams may run at the same time and would draw each other's tickets.
_tickets: dict[tuple[int, int], Tensor] = {}


def unsupported_reasons(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Every reason why the kernel cannot take tensors of this device and dtype; none where it can."""
    reasons = against_device(device, "cuda")
    if not _LIBRARY.is_file():
        reasons.append(f"fastdc/{_LIBRARY.name} is not there ({compiled.state('cuda')})")
    elif not reasons:
        reasons += _unusable(torch.cuda.current_device() if device.index is None else device.index)
    return [*reasons, *against_dtype(dtype)]


def metrics() -> tuple[str, ...]:
    """The names of the metrics that the library has code for."""
    return tuple(_numbers())


def layerwise_distance(synthetic: Tensor, real: Tensor, segments: tuple[int, ...], metric: str) -> tuple[Tensor, Tensor]:
    """The distance of every class's synthetic gradient from its real one, and the derivative by the synthetic one.

    Args:
        synthetic: gradients of the synthetic images, [C, P], elements of a class side by side.
        real: gradients of the real images, as `synthetic`, of the same dtype and device.
        segments: which elements are rows, as `ParameterLayout.segments` gives them.
        metric: one of `metrics()`.

    Returns:
        The distance [C], float64 for float64 and else float32, and the cotangent [C, P], contiguous, of the inputs' dtype.

    Raises:
        RunError: the kernel could not be loaded or launched.
    """
    classes, size = synthetic.shape
    device = synthetic.device
    tiles = tiles_of(segments, size, device)  # [T, 3]
    tile_count = tiles.shape[0]
    distance_dtype = torch.float64 if synthetic.dtype == torch.float64 else torch.float32
    if classes == 0 or tile_count == 0:
        return torch.zeros(classes, dtype=distance_dtype, device=device), synthetic.new_zeros(synthetic.shape)
    library = _library()
    distance = torch.empty(classes, dtype=distance_dtype, device=device)  # [C]
    cotangent = torch.empty((classes, size), dtype=synthetic.dtype, device=device)  # [C, P]
    partial = torch.empty((classes, tile_count, 3), dtype=torch.float64, device=device)
    stream = torch.cuda.current_stream(device).cuda_stream
    tickets = _tickets_for(classes, device, stream)
    error = library.fastdc_cuda_layerwise_distance(
        synthetic.data_ptr(),
        synthetic.stride(0),
        real.data_ptr(),
        real.stride(0),
        distance.data_ptr(),
        cotangent.data_ptr(),
        tiles.data_ptr(),
        tile_count,
        partial.data_ptr(),
        tickets.data_ptr(),
        classes,
        size,
        _DTYPES[synthetic.dtype],
        _numbers()[metric],
        device.index,
        stream,
    )
    if error is not None:
        raise RunError(f"the CUDA kernel of the layer-wise distance could not be launched on {device}: {error.decode()}.")
    return distance, cotangent


layerwise_distances = one_by_one(layerwise_distance)


def launches() -> int:
    """How many kernels the library launched since it was loaded."""
    return int(_library().fastdc_cuda_launches())


@functools.cache
def _unusable(device: int) -> list[str]:
    """Why no kernel of the library runs on that card, such as code for other cards only; nothing where they do."""
    try:
        reason = _library().fastdc_cuda_unusable(device)
    except RunError as error:
        return [str(error).removesuffix(".")]
    return [] if reason is None else [f"fastdc/{_LIBRARY.name} does not run on cuda:{device} ({reason.decode()}; {compiled.state('cuda')})"]


@functools.cache
def _numbers() -> dict[str, int]:
    """The metrics of the library by name, each with its number there."""
    names = map(_library().fastdc_cuda_metric_name, itertools.count())
    return {name.decode(): number for number, name in enumerate(itertools.takewhile(lambda name: name is not None, names))}


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        return _declared(ctypes.CDLL(str(_LIBRARY)))
    except (OSError, AttributeError) as error:  # AttributeError: a library of another version lacks a function
        raise RunError(f"fastdc/{_LIBRARY.name} does not load ({error}; {compiled.state('cuda')}).") from None


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, with the types of its functions (csrc/cuda/layerwise_distance.h)."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.fastdc_cuda_layerwise_distance.argtypes = [
        *(pointer, number, pointer, number),  # synthetic and real with their strides
        *(pointer, pointer, pointer, number),  # distance, cotangent, tiles and their number
        *(pointer, pointer, number, number),  # partial, tickets, classes, size
        *(ctypes.c_int, ctypes.c_int, ctypes.c_int, pointer),  # dtype, metric, device, stream
    ]
    library.fastdc_cuda_layerwise_distance.restype = ctypes.c_char_p
    library.fastdc_cuda_unusable.argtypes = [ctypes.c_int]
    library.fastdc_cuda_unusable.restype = ctypes.c_char_p
    library.fastdc_cuda_metric_name.argtypes = [ctypes.c_int]
    library.fastdc_cuda_metric_name.restype = ctypes.c_char_p
    library.fastdc_cuda_launches.argtypes = []
    library.fastdc_cuda_launches.restype = ctypes.c_int
    return library


def _tickets_for(classes: int, device: torch.device, stream: int) -> Tensor:
    if is_capturing(device):
        # What is allocated while a graph is captured is cleared only when the graph runs: it cannot serve other calls.
        return torch.zeros(classes, dtype=torch.int32, device=device)
    key = (device.index, stream)
    tickets = _tickets.get(key)
    if tickets is None or tickets.shape[0] < classes:
        tickets = _tickets[key] = torch.zeros(classes, dtype=torch.int32, device=device)
    return tickets
