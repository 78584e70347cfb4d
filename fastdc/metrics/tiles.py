"""Tiles: how the compiled distance cuts the flat vector into pieces of work of about one size."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fastdc.errors import UsageError
from fastdc.parallel.devices import is_capturing, to_device

_SMALLEST = 4096  # elements: below it, starting a piece costs more than its work
_MOST = 1024  # pieces for a vector of any size, within a factor of two and one per parameter: partial sums stay small

_in_graphs: dict[int, Tensor] = {}  # tables that CUDA graphs read whenever they run, by address: never freed


def tiles_of(segments: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    """The pieces that make up a flat vector of `size` elements, in order, without overlap.

    Args:
        segments: as `ParameterLayout.segments` gives them.
        size: P.
        device: where the table is kept.

    Returns:
        int64 [T, 3]: offset, rows, row_length. A tile with no rows is a stretch of `row_length` elements that lie in no row.

    Raises:
        UsageError: a CUDA graph is being captured, and the table was not made before.
    """
    table, copied = _table(segments, size, device)
    if is_capturing(device):  # a capture begins when all that went before is done: nothing to wait for
        _in_graphs[table.data_ptr()] = table
    elif copied is not None:
        torch.cuda.current_stream(device).wait_event(copied)  # the table may have been made on another stream
    return table


@functools.lru_cache(maxsize=256)
def _table(segments: tuple[int, ...], size: int, device: torch.device) -> tuple[Tensor, torch.cuda.Event | None]:
    """The table, and on a GPU the event after its copy."""
    if is_capturing(device):  # the copy would be made when the graph runs, and a table that is kept must hold something before
        raise UsageError(
            "a CUDA graph is being captured with gradients of shapes that the layer-wise distance has not seen; "
            "call it once with these shapes before capturing."
        )
    table = to_device(torch.tensor(list(_cut(segments, size)), dtype=torch.int64).reshape(-1, 3), device)
    return table, torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def _cut(segments: Sequence[int], size: int) -> Iterator[tuple[int, int, int]]:
    target = max(_SMALLEST, -(-size // _MOST))
    end = 0  # of what is cut already
    for offset, rows, row_length in zip(*[iter(segments)] * 3, strict=True):
        yield from _gap(end, offset, target)
        step = max(1, target // row_length) if row_length else rows
        for row in range(0, rows, step):
            yield offset + row * row_length, min(step, rows - row), row_length
        end = offset + rows * row_length
    yield from _gap(end, size, target)


def _gap(begin: int, end: int, target: int) -> Iterator[tuple[int, int, int]]:
    for offset in range(begin, end, target):
        yield offset, 0, min(target, end - offset)
