"""Convolutions with weights of each class, and gradients by them, in one launch, written in Triton.

With maps x of each of G classes and weights W, one for each class or the same for all, and a stride of 1:

    there              y[f, p] = sum over c, k of W[f, c, k] x[c, p + k]     of two such sums, W x' + V x, if there are two
    back               the same with W mirrored, whose features are the channels and the other way around
    weight gradients   s[f, c, k] += sum over the images of a class and their places p of gy[f, p] x[c, p + k]

where x is zero outside its maps. The plain definition is `fastdc.engines.chain.products`, which writes all windows down before it
multiplies them; here a program reads them from the maps.

How the work is split: one program for a block of features of a class, and a block of the places of its images or, for weight gradients, of
the numbers of a window. It goes over what is summed in steps, each a product of two matrices. Where there are so few weights that they
would leave a GPU idle, several programs share out the places of a class, and `class_sums` adds what they find. Operands are float32,
cut to TF32 if PRECISION says so, bfloat16 or float64; sums are float32, or float64, in an order that the sizes alone decide.
TRITON_INTERPRET=1, set before Triton is imported, runs all of it on CPU tensors.
"""
# ruff: noqa: N803 (constexpr arguments are in capitals, as is usual in Triton)

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from fastdc.kernels.class_sums import add_class_sums
from fastdc.kernels.launch import launch
from torch import Tensor

BLOCK, DEPTH = 64, 16  # the most features, places or numbers of a block, and what a step sums
LEAST = 16  # numbers a side of what tensor cores multiply
WARPS, STAGES = 8, 3
PROGRAMS = 256  # fill a GPU
STEPS = 8  # are worth a program
DOUBLE = os.environ.get("TRITON_INTERPRET") == "1" or tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 8)


@triton.jit
def _places(number, rows, columns, UP: tl.constexpr, LEFT: tl.constexpr):
    """Of places of the images of a class [T]: the number of the image, the place within its maps, and where the window begins."""
    area = rows * columns
    image = number // area
    within = number - image * area
    row = within // columns
    return image, within, row - UP, within - row * columns - LEFT


@triton.jit
def _window(number, KH: tl.constexpr, KW: tl.constexpr):
    """Of numbers of a window [T]: the channel, and how far down and across."""
    return number // (KH * KW), number // KW % KH, number % KW


@triton.jit
def _read(x, first, number, row, column, down, across, there, height, width):
    """Numbers of windows, zero outside the maps: `first` is where a window begins, `number` how far from there; all of places [T, 1] or of
    numbers [1, T], or the other way. A row above the map is larger than any as an unsigned number."""
    inside = there & ((row + down).to(tl.uint32) < height) & ((column + across).to(tl.uint32) < width)
    return tl.load(x + (first + number), mask=inside, other=0.0)


@triton.jit
def _sum(
    total, x, weight, feature, begin, row, column, there, channels, features, height, width,
    KH: tl.constexpr, KW: tl.constexpr, BACK: tl.constexpr, PRECISION: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The total [F, T] and one of the sums over channels and windows."""
    numbers = channels * (KH * KW)
    for first in range(0, numbers, DEPTH):
        number = first + tl.arange(0, DEPTH)
        channel, down, across = _window(number, KH, KW)
        if BACK:
            place = (channel * features)[None, :] * (KH * KW) + (feature * (KH * KW))[:, None] + (KH * KW - 1 - number % (KH * KW))[None, :]
        else:
            place = (feature * numbers)[:, None] + number[None, :]
        w = tl.load(weight + place, mask=(feature < features)[:, None] & (number < numbers)[None, :], other=0.0)
        offset = (channel * height + down) * width + across
        within = there[None, :] & (number < numbers)[:, None]
        values = _read(
            x, begin[None, :], offset[:, None], row[None, :], column[None, :], down[:, None], across[:, None], within, height, width
        )
        total = tl.dot(w, values, total, input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=["stride", "other_stride", "each", "channels", "features", "height", "width", "rows", "columns"])
def convolution_kernel(
    x, weight, other_x, other_weight, y, stride, other_stride, each, channels, features, height, width, rows, columns,
    UP: tl.constexpr, LEFT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, BACK: tl.constexpr, TERMS: tl.constexpr,
    PRECISION: tl.constexpr, FEATURES: tl.constexpr, PLACES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One block of y.

    Args:
        x, other_x: maps [N, channels, height, width], contiguous; the other ones are read where there are two TERMS.
        weight, other_weight: [G, features, channels, KH, KW], of BACK [G, channels, features, KH, KW]; classes `stride` numbers apart, 0
            where they share them.
        y: [N, features, rows, columns], written.
        each: images of a class, N / G.
        UP, LEFT: how far above and to the left of a map its first window begins.
        FEATURES, PLACES: of a block. DEPTH: of a step.
    """
    kind: tl.constexpr = y.dtype.element_ty
    area = rows * columns
    blocks = tl.cdiv(features, FEATURES)
    of_class = tl.cdiv(each * area, PLACES)
    feature = tl.program_id(0) % blocks * FEATURES + tl.arange(0, FEATURES)
    number = tl.program_id(0) // blocks % of_class * PLACES + tl.arange(0, PLACES)
    label = (tl.program_id(0) // (blocks * of_class)).to(tl.int64)
    there = number < each * area
    image, within, row, column = _places(number, rows, columns, UP, LEFT)
    size = channels * height * width
    begin = image * size + row * width + column
    before = label * each * size
    total = tl.zeros([FEATURES, PLACES], kind)
    total = _sum(
        total, x + before, weight + label * stride, feature, begin, row, column, there, channels, features, height, width,
        KH, KW, BACK, PRECISION, DEPTH,
    )  # fmt: skip
    if TERMS == 2:
        total = _sum(
            total, other_x + before, other_weight + label * other_stride, feature, begin, row, column, there, channels, features,
            height, width, KH, KW, BACK, PRECISION, DEPTH,
        )  # fmt: skip
    to = y + label * each * (features * area) + ((image * (features * area) + within)[None, :] + (feature * area)[:, None])
    tl.store(to, total.to(kind), mask=(feature < features)[:, None] & there[None, :])


@triton.jit(do_not_specialize=["stride", "parts", "length", "each", "channels", "features", "height", "width"])
def weight_gradients_kernel(
    x, gy, sums, stride, parts, length, each, channels, features, height, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    UP: tl.constexpr, LEFT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ADD: tl.constexpr,
    PRECISION: tl.constexpr, FEATURES: tl.constexpr, NUMBERS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One block of the gradients of a class by its weights, of some of its places; the rest as `convolution_kernel` has it.

    Args:
        gy: gradients [N, features, ROWS, COLUMNS] by the outputs, contiguous; every step divides by these, which a compiler that knows them
            does in a few instructions.
        sums: [G * parts, features, channels, KH, KW], one `stride` numbers after the other; added to where ADD says so, else written.
        parts: that the places of a class are shared out in, each of `length` or of what is left.
    """
    kind: tl.constexpr = sums.dtype.element_ty
    area: tl.constexpr = ROWS * COLUMNS
    numbers = channels * (KH * KW)
    blocks = tl.cdiv(features, FEATURES)
    others = tl.cdiv(numbers, NUMBERS)
    feature = tl.program_id(0) % blocks * FEATURES + tl.arange(0, FEATURES)
    number = tl.program_id(0) // blocks % others * NUMBERS + tl.arange(0, NUMBERS)
    part = (tl.program_id(0) // (blocks * others)).to(tl.int64)
    label = part // parts
    begin = (part % parts).to(tl.int32) * length
    end = tl.minimum(begin + length, each * area)
    channel, down, across = _window(number, KH, KW)
    offset = (channel * height + down) * width + across
    size = channels * height * width
    x += label * each * size
    gy += label * each * (features * area)
    total = tl.zeros([FEATURES, NUMBERS], kind)
    for first in range(begin, end, DEPTH):
        place = first + tl.arange(0, DEPTH)
        image, within, row, column = _places(place, ROWS, COLUMNS, UP, LEFT)
        at = (image * (features * area) + within)[None, :] + (feature * area)[:, None]
        g = tl.load(gy + at, mask=(feature < features)[:, None] & (place < end)[None, :], other=0.0)
        both = (place < end)[:, None] & (number < numbers)[None, :]
        at = image * size + row * width + column
        values = _read(x, at[:, None], offset[None, :], row[:, None], column[:, None], down[None, :], across[None, :], both, height, width)
        total = tl.dot(g, values, total, input_precision=PRECISION)
    to = sums + part * stride + (feature * numbers)[:, None] + number[None, :]
    mask = (feature < features)[:, None] & (number < numbers)[None, :]
    if ADD:
        total += tl.load(to, mask=mask, other=0.0)
    tl.store(to, total.to(kind), mask=mask)


@dataclass(frozen=True)
class Windows:
    """Of a convolution with stride 1: numbers a side, and rows and columns of zeros around its maps."""

    kernel: tuple[int, int]
    padding: tuple[int, int]

    @property
    def back(self) -> Windows:
        """Of the convolution that its transpose is."""
        (high, wide), (down, across) = self.kernel, self.padding
        return Windows(self.kernel, (high - 1 - down, wide - 1 - across))

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Of what comes out for maps of that size."""
        (high, wide), (down, across) = self.kernel, self.padding
        return height + 2 * down - high + 1, width + 2 * across - wide + 1

    @property
    def constants(self) -> dict[str, int]:
        """As kernels take them."""
        return {"UP": self.padding[0], "LEFT": self.padding[1], "KH": self.kernel[0], "KW": self.kernel[1]}


def convolve(terms: Sequence[tuple[Tensor, Tensor]], windows: Windows, back: bool, precision: str, dtype: torch.dtype) -> Tensor:
    """y [N, features, H', W'] of one or two pairs of contiguous maps [N, channels, H, W] and weights.

    Args:
        terms: weights are [G, features, channels, *kernel], or [1, ...] of all classes; each class contiguous.
        windows: of this convolution; if it goes `back`, of the one that it is.
        back: whether weights are mirrored, [G, channels, features, *kernel].
        precision: of products of float32, "ieee" or "tf32".
        dtype: of y.
    """
    (x, weights), (other_x, others) = terms[0], terms[-1]
    count, channels, height, width = x.shape
    features, classes = weights.shape[2 if back else 1], max(len(weights), len(others))
    rows, columns = windows.output_size(height, width)
    y = x.new_empty(count, features, rows, columns, dtype=dtype)
    block = _most(dtype)
    sizes = {"FEATURES": _block(features, block), "PLACES": block, "DEPTH": DEPTH}
    programs = classes * triton.cdiv(features, sizes["FEATURES"]) * triton.cdiv(count // classes * rows * columns, block)
    strides = (weights.stride(0) if len(weights) > 1 else 0, others.stride(0) if len(others) > 1 else 0)
    launch(
        convolution_kernel, programs, x, weights, other_x, others, y, *strides, count // classes,
        channels, features, height, width, rows, columns,
        **windows.constants, BACK=back, TERMS=len(terms), PRECISION=precision, **sizes, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return y


def add_weight_gradients(sums: Tensor, x: Tensor, gy: Tensor, windows: Windows, precision: str) -> None:
    """Add to gradients [G, features, channels, *kernel], each class contiguous, what maps x [N, channels, H, W] and gradients gy
    [N, features, H', W'] by the outputs give, both contiguous."""
    (count, channels, height, width), (features, rows, columns), classes = x.shape, gy.shape[1:], len(sums)
    block = _most(sums.dtype)
    numbers, places = sums[0, 0].numel(), count // classes * rows * columns
    sizes = {"FEATURES": _block(features, block), "NUMBERS": _block(numbers, block), "DEPTH": DEPTH}
    programs = classes * triton.cdiv(features, sizes["FEATURES"]) * triton.cdiv(numbers, sizes["NUMBERS"])
    steps = triton.cdiv(places, DEPTH)
    length = DEPTH * triton.cdiv(steps, max(1, min(PROGRAMS // programs, steps // STEPS)))
    parts = triton.cdiv(places, length)
    found = sums if parts == 1 else sums.new_empty(classes * parts, *sums.shape[1:])
    launch(
        weight_gradients_kernel, programs * parts, x, gy, found, found.stride(0), parts, length, count // classes,
        channels, features, height, width,
        **windows.constants, ROWS=rows, COLUMNS=columns, ADD=parts == 1, PRECISION=precision, **sizes, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    if parts > 1:
        add_class_sums([(found, sums)])


def serves(dtype: torch.dtype) -> bool:
    """Whether what comes out can be of that dtype: of float64 before Triton 3.8 where it is interpreted."""
    return dtype == torch.float32 or (dtype == torch.float64 and DOUBLE)


def _most(dtype: torch.dtype) -> int:
    """Numbers a side of a block."""
    return BLOCK if dtype == torch.float32 else BLOCK // 2


def _block(count: int, most: int) -> int:
    """How many of `count` a block has."""
    return min(most, max(LEAST, triton.next_power_of_2(count)))
