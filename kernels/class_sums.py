"""Sums over the images of each class, added to one or two parameters' gradients in one launch, written in Triton:

    s[g, i] += sum over j of v[g, j, i]

One program for each class and block of numbers, which goes through all j in order: ROWS sums side by side, added at the end. Sums are in
the dtype of the numbers, in an order that the sizes alone decide.
"""
# ruff: noqa: N803 (constexpr arguments are in capitals, as is usual in Triton)

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from fastdc.kernels.launch import launch
from torch import Tensor

ROWS, BLOCK = 8, 128  # numbers of a step
WARPS = 4


@triton.jit
def _add(values, sums, label, block, count, size, stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """One block of one class."""
    column = block * BLOCK + tl.arange(0, BLOCK)
    row = tl.arange(0, ROWS)
    values += label * count * size
    total = tl.zeros([ROWS, BLOCK], values.dtype.element_ty)
    for first in range(0, count, ROWS):
        inside = (first + row < count)[:, None] & (column < size)[None, :]
        total += tl.load(values + (first + row).to(tl.int64)[:, None] * size + column[None, :], mask=inside, other=0.0)
    place = sums + label * stride + column
    tl.store(place, tl.load(place, mask=column < size, other=0.0) + tl.sum(total, 0), mask=column < size)


@triton.jit(do_not_specialize=["count", "size", "stride", "other_count", "other_size", "other_stride"])
def class_sums_kernel(
    values, sums, other_values, other_sums, count, size, stride, other_count, other_size, other_stride,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program by program the blocks of the first parameter of a class, then those of the other one.

    Args:
        values, other_values: [G, count, size], contiguous.
        sums, other_sums: [G, size], classes `stride` numbers apart; added to.
    """
    blocks = tl.cdiv(size, BLOCK)
    all_blocks = blocks + tl.cdiv(other_size, BLOCK)
    label = (tl.program_id(0) // all_blocks).to(tl.int64)
    block = tl.program_id(0) % all_blocks
    if block < blocks:
        _add(values, sums, label, block, count, size, stride, ROWS, BLOCK)
    else:
        _add(other_values, other_sums, label, block - blocks, other_count, other_size, other_stride, ROWS, BLOCK)


def add_class_sums(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Add to gradients [G, *shape] the sums of values [N, ...] over the N / G rows of each class.

    Args:
        pairs: two at the most, of values, contiguous, and the gradients, those of a class side by side.
    """
    if not pairs:
        return
    sizes = [(len(values) // len(sums), sums[0].numel(), sums.stride(0)) for values, sums in pairs]
    programs = len(pairs[0][1]) * sum(triton.cdiv(size, BLOCK) for _, size, _ in sizes)
    own, other = sizes[0], sizes[1] if len(pairs) > 1 else (0, 0, 0)
    launch(class_sums_kernel, programs, *pairs[0], *pairs[-1], *own, *other, ROWS=ROWS, BLOCK=BLOCK, num_warps=WARPS)
