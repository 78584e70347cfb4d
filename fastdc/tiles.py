"""Tiles: how the compiled distance cuts the flat vector into pieces of work of about one size."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_SMALLEST = 4096  # elements: below it, starting a piece costs more than its work
_MOST = 1024  # pieces for a vector of any size, within a factor of two and one per parameter: partial sums stay small


@functools.lru_cache(maxsize=256)
def tiles_of(segments: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    """The pieces that make up a flat vector of `size` elements, in order, without overlap.

    Args:
        segments: as `ParameterLayout.segments` gives them.
        size: P.
        device: where the table is kept.

    Returns:
        int64 [T, 3]: offset, rows, row_length. A tile with no rows is a stretch of `row_length` elements that lie in no row.
    """
    tiles = list(_cut(segments, size))
    return torch.tensor(tiles, dtype=torch.int64).reshape(-1, 3).to(device)


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
