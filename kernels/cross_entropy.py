"""How cross-entropy changes with the logits of images, and that along a direction, in one launch each, written in Triton.

With z the logits of an image, p = softmax(z), `label` its class and n the images of the mean:

    cotangent     (p - onehot(label)) / n
    along z'      p (z' - <p, z'>) / n

The plain definition is `fastdc.engines.chain.cross_entropy`. One program has some images and all their numbers. TRITON_INTERPRET=1, set
before Triton is imported, runs all of it on CPU tensors.
"""
# ruff: noqa: N803 (constexpr arguments are in capitals, as is usual in Triton)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from fastdc.kernels.launch import launch
from torch import Tensor

BLOCK, WARPS = 1024, 4  # numbers of a program, where an image has no more
MOST = 8192  # classes


@triton.jit
def _places(total, count, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Of the images of a program [R, 1]: their numbers; of their logits [R, B]: their classes, where they are, and whether they are."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    return row, column, row.to(tl.int64) * count + column, (row < total) & (column < count)


@triton.jit(do_not_specialize=["total", "count", "each", "images"])
def cotangent_kernel(logits, labels, shares, cotangent, total, count, each, images, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """p and the cotangent of some images.

    Args:
        logits, shares, cotangent: [total, count], contiguous; the last two are written.
        labels: one for each `each` images, int64.
        images: n.
    """
    row, column, place, there = _places(total, count, ROWS, BLOCK)
    z = tl.where(column < count, tl.load(logits + place, mask=there, other=0.0), -float("inf"))
    powers = tl.exp(z - tl.max(z, 1, keep_dims=True))
    p = powers / tl.sum(powers, 1, keep_dims=True)
    label = tl.load(labels + row // each, mask=row < total, other=0)
    tl.store(shares + place, p, mask=there)
    tl.store(cotangent + place, tl.where(column == label, p - 1.0, p) / images.to(p.dtype), mask=there)


@triton.jit(do_not_specialize=["total", "count", "images"])
def along_kernel(tangent, shares, result, total, count, images, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """What the cotangent of some images changes by where the logits change by `tangent`; all [total, count], contiguous."""
    _, _, place, there = _places(total, count, ROWS, BLOCK)
    t = tl.load(tangent + place, mask=there, other=0.0)
    p = tl.load(shares + place, mask=there, other=0.0)
    tl.store(result + place, p * (t - tl.sum(p * t, 1, keep_dims=True)) / images.to(p.dtype), mask=there)


def cotangent(logits: Tensor, labels: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """The shares p and the cotangent [N, num_classes] of contiguous logits; a label for each of G classes of N / G images, int64 [G]."""
    shares, found = torch.empty_like(logits), torch.empty_like(logits)
    _launch(cotangent_kernel, logits, (labels, shares, found), len(logits) // len(labels), images)
    return shares, found


def along(tangent: Tensor, shares: Tensor, images: int) -> Tensor:
    """What the cotangent changes by along a tangent [N, num_classes] of the logits, contiguous as the shares are."""
    found = torch.empty_like(tangent)
    _launch(along_kernel, tangent, (shares, found), images)
    return found


def _launch(kernel: Any, logits: Tensor, others: tuple[Tensor, ...], *sizes: int) -> None:
    total, count = logits.shape
    block = triton.next_power_of_2(count)
    rows = max(1, BLOCK // block)
    launch(kernel, triton.cdiv(total, rows), logits, *others, total, count, *sizes, ROWS=rows, BLOCK=block, num_warps=WARPS)
