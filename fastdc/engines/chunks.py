"""Chunks: how many images go through a network at once, so that memory does not grow with their number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fastdc.runtime.stopping import stop_point


def even_slices(count: int, most: int) -> Iterator[slice]:
    """Cover `count` with as few slices of at most `most` as needed, of nearly the same length, with a `stop_point` before each."""
    length = math.ceil(count / math.ceil(count / most))
    for start in range(0, count, length):
        stop_point()
        yield slice(start, min(start + length, count))


def split(values: Tensor, most: int) -> Iterator[Tensor]:
    """Values [N, ...] in such slices."""
    return (values[part] for part in even_slices(len(values), most))


def together(parts: Sequence[Tensor]) -> Tensor:
    """Parts one after another, a single one without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))


def class_chunks(images: Tensor, most: int, alone: bool = False) -> Iterator[tuple[slice, slice]]:
    """Slices of classes and of images that together cover images [G, n, ...], each of at most `most` images; `alone`: of one class."""
    count, each = images.shape[:2]
    for group in even_slices(count, 1 if alone else max(1, most // each)):
        for part in even_slices(each, most):
            yield group, part
