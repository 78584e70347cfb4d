"""Convolutions whose weights, or the gradients by them, are one for each class, all classes in one launch, written in Triton.

With x the maps that a convolution reads and y what it gives, N = G * b images of G classes one after another, and V weights of each class:

    products            y += V x           each image with the weights of its class
    transposed          gx += V^T gy
    weight gradients    gV += gy x^T       summed over the images of a class; and gb += sum of gy

Each is a product of matrices of which one is never written down: of all windows of the maps, each a column of channels * kernel numbers.
The plain definition is `fastdc.engines.chain.products`, a convolution for each class.

How the work is split: one program for each tile of what comes out. Where gradients by weights have few tiles and many positions, the
positions of a class are split into parts, each with a sum of its own, which `class_sums` adds in one more launch. Sums are float32
(float64 of float64), in an order that the sizes alone decide. TRITON_INTERPRET=1, set before Triton is imported, runs all of it on CPU
tensors.
"""
# ruff: noqa: N803 (constexpr arguments are in capitals, as is usual in Triton)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from fastdc.kernels.class_sums import add_class_sums
from fastdc.kernels.launch import launch
from torch import Tensor

# Of maps; Triton before 3.5 has no product of float64.
DTYPES = (torch.float32, torch.float64) if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 5) else (torch.float32,)


class Tile(NamedTuple):
    """Of what comes out, how much is summed over in a step, and the warps of a program."""

    rows: int
    columns: int
    step: int
    warps: int


# One configuration for all: it decides the order within a sum.
GRADIENT_TILE, PRODUCT_TILE = Tile(64, 64, 32, warps=8), Tile(64, 32, 32, warps=4)
PROGRAMS, POSITIONS = 1024, 1024  # positions are split until there are so many programs, or a part has no more than that


@triton.jit
def _source(place, offset, STRIDE: tl.constexpr, PADDING: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Where the row or column lies that `place` meets at an offset in the kernel, and whether there is one, edges aside."""
    if TRANSPOSED:
        way = place + PADDING - offset
        source = way // STRIDE
        there = way % STRIDE == 0
    else:
        source = place * STRIDE - PADDING + offset
        there = offset >= 0
    return source, there


@triton.jit
def _windows(
    x, image, place, number, inside, channels, height, width, other_width,
    KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, STRIDE_DOWN: tl.constexpr, STRIDE_ACROSS: tl.constexpr,
    PADDING_DOWN: tl.constexpr, PADDING_ACROSS: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """Of maps x [N, channels, height, width] what places in maps `other_width` wide meet, zero outside of x; the arguments are broadcast.

    Args:
        image, place: which image, and where in its map, row by row.
        number: which number of a window, of channels * KERNEL_HEIGHT * KERNEL_WIDTH.
        inside: whether it is wanted.
    """
    channel = number // (KERNEL_HEIGHT * KERNEL_WIDTH)
    offset = number % (KERNEL_HEIGHT * KERNEL_WIDTH)
    row, row_there = _source(place // other_width, offset // KERNEL_WIDTH, STRIDE_DOWN, PADDING_DOWN, TRANSPOSED)
    column, column_there = _source(place % other_width, offset % KERNEL_WIDTH, STRIDE_ACROSS, PADDING_ACROSS, TRANSPOSED)
    inside = inside & (channel < channels) & row_there & column_there
    inside = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return tl.load(x + image * (channels * height * width) + (channel * height * width + row * width + column), mask=inside, other=0.0)


@triton.jit(do_not_specialize=["each", "channels", "height", "width", "features", "out_height", "out_width", "parts", "span"])
def weight_gradients_kernel(
    x, gy, by_weight, by_bias, each, channels, height, width, features, out_height, out_width, parts, span,
    KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, STRIDE_DOWN: tl.constexpr, STRIDE_ACROSS: tl.constexpr,
    PADDING_DOWN: tl.constexpr, PADDING_ACROSS: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One tile of gy x^T of one part of the positions of a class; where BIAS says so, the sum of gy as well.

    Args:
        x: maps [G * each, channels, height, width], contiguous.
        gy: [G * each, features, out_height, out_width], contiguous.
        by_weight: [G, parts, features, channels * KERNEL_HEIGHT * KERNEL_WIDTH], written.
        by_bias: [G, parts, features], written.
        span: positions of a part.
    """
    area = out_height * out_width
    numbers = channels * KERNEL_HEIGHT * KERNEL_WIDTH
    across = tl.cdiv(numbers, COLUMNS)
    tiles = across * tl.cdiv(features, ROWS)
    tile = tl.program_id(0) % tiles
    part = tl.program_id(0) // tiles
    number = tile % across * COLUMNS + tl.arange(0, COLUMNS)
    feature = tile // across * ROWS + tl.arange(0, ROWS)
    first_image = (part // parts * each).to(tl.int64)
    start = part % parts * span
    stop = tl.minimum(start + span, each * area)
    kind: tl.constexpr = by_weight.dtype.element_ty
    total = tl.zeros([ROWS, COLUMNS], kind)
    of_gy = tl.zeros([ROWS, STEP], kind)
    for first in range(start, stop, STEP):
        position = first + tl.arange(0, STEP)
        image = first_image + position // area
        place = position % area
        inside = position < stop
        g = tl.load(
            gy + image[None, :] * (features * area) + (feature[:, None] * area + place[None, :]),
            mask=(feature < features)[:, None] & inside[None, :], other=0.0,
        )  # fmt: skip
        windows = _windows(
            x, image[:, None], place[:, None], number[None, :], inside[:, None], channels, height, width, out_width,
            KERNEL_HEIGHT, KERNEL_WIDTH, STRIDE_DOWN, STRIDE_ACROSS, PADDING_DOWN, PADDING_ACROSS, False,
        )  # fmt: skip
        total = tl.dot(g, windows, total, input_precision=PRECISION, out_dtype=kind)
        if BIAS:
            of_gy += g.to(kind)
    row = part.to(tl.int64) * features + feature
    wanted = (feature < features)[:, None] & (number < numbers)[None, :]
    tl.store(by_weight + row[:, None] * numbers + number[None, :], total, mask=wanted)
    if BIAS:
        tl.store(by_bias + row, tl.sum(of_gy, 1), mask=(feature < features) & (tile % across == 0))


@triton.jit(
    do_not_specialize=[
        "each", "channels", "height", "width", "out_channels", "out_height", "out_width", "class_stride", "out_stride", "stride",
    ]
)  # fmt: skip
def products_kernel(
    x, weights, y, each, channels, height, width, out_channels, out_height, out_width, class_stride, out_stride, stride,
    KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, STRIDE_DOWN: tl.constexpr, STRIDE_ACROSS: tl.constexpr,
    PADDING_DOWN: tl.constexpr, PADDING_ACROSS: tl.constexpr, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One tile of y += V x of a class, or of y += V^T x.

    Args:
        x: maps [G * each, channels, height, width], contiguous.
        weights: of each class, the kernel of a pair of channels side by side: classes, channels of y and channels of x lie
            `class_stride`, `out_stride` and `stride` numbers apart.
        y: [G * each, out_channels, out_height, out_width], contiguous; added to.
    """
    area = out_height * out_width
    numbers = channels * KERNEL_HEIGHT * KERNEL_WIDTH
    across = tl.cdiv(each * area, COLUMNS)
    tiles = across * tl.cdiv(out_channels, ROWS)
    tile = tl.program_id(0) % tiles
    label = (tl.program_id(0) // tiles).to(tl.int64)
    position = tile % across * COLUMNS + tl.arange(0, COLUMNS)
    out = tile // across * ROWS + tl.arange(0, ROWS)
    image = label * each + position // area
    place = position % area
    kind: tl.constexpr = y.dtype.element_ty
    total = tl.zeros([ROWS, COLUMNS], kind)
    for first in range(0, numbers, STEP):
        number = first + tl.arange(0, STEP)
        of_pair = number // (KERNEL_HEIGHT * KERNEL_WIDTH) * stride + number % (KERNEL_HEIGHT * KERNEL_WIDTH)
        v = tl.load(
            weights + label * class_stride + (out[:, None] * out_stride + of_pair[None, :]),
            mask=(out < out_channels)[:, None] & (number < numbers)[None, :], other=0.0,
        )  # fmt: skip
        windows = _windows(
            x, image[None, :], place[None, :], number[:, None], (position < each * area)[None, :], channels, height, width, out_width,
            KERNEL_HEIGHT, KERNEL_WIDTH, STRIDE_DOWN, STRIDE_ACROSS, PADDING_DOWN, PADDING_ACROSS, TRANSPOSED,
        )  # fmt: skip
        total = tl.dot(v, windows, total, input_precision=PRECISION, out_dtype=kind)
    index = y + image[None, :] * (out_channels * area) + (out[:, None] * area + place[None, :])
    wanted = (out < out_channels)[:, None] & (position < each * area)[None, :]
    tl.store(index, tl.load(index, mask=wanted, other=0.0) + total, mask=wanted)


@dataclass(frozen=True)
class Window:
    """How the windows of a convolution lie in maps, and how products are rounded, as `tl.dot` calls it."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    precision: str = "ieee"

    def constants(self, tile: Tile) -> dict[str, Any]:
        """As a kernel takes it that computes such tiles."""
        sides = ("KERNEL_HEIGHT", "KERNEL_WIDTH", "STRIDE_DOWN", "STRIDE_ACROSS", "PADDING_DOWN", "PADDING_ACROSS")
        names = (*sides, "PRECISION", "ROWS", "COLUMNS", "STEP", "num_warps")
        return dict(zip(names, (*self.kernel, *self.stride, *self.padding, self.precision, *tile), strict=True))


def add_weight_gradients(window: Window, x: Tensor, gy: Tensor, by_weight: Tensor, by_bias: Tensor | None) -> None:
    """gV += gy x^T, and where it is given gb += sum of gy.

    Args:
        window: how x is read.
        x: maps [N, channels, H, W]; float32, float64 or bfloat16.
        gy: [N, features, H', W'], of the same dtype.
        by_weight: gV [G, features, channels, *kernel], gradients of a class side by side; float64 where x is, else float32.
        by_bias: gb [G, features], the same.
    """
    (count, channels, *size), (_, features, *out_size), classes = x.shape, gy.shape, len(by_weight)
    each = count // classes
    positions = each * out_size[0] * out_size[1]
    tiles = triton.cdiv(features, GRADIENT_TILE.rows) * triton.cdiv(by_weight[0, 0].numel(), GRADIENT_TILE.columns)
    parts = max(1, min(triton.cdiv(PROGRAMS, classes * tiles), triton.cdiv(positions, POSITIONS)))
    span = triton.cdiv(positions, parts)
    of_weight = by_weight.new_empty(classes * parts, *by_weight.shape[1:])
    of_bias = by_weight.new_empty(classes * parts, features) if by_bias is not None else of_weight
    sizes = (each, channels, *size, features, *out_size, parts, span)
    given = (x.contiguous(), gy.contiguous(), of_weight, of_bias, *sizes)
    launch(weight_gradients_kernel, classes * parts * tiles, *given, BIAS=by_bias is not None, **window.constants(GRADIENT_TILE))
    add_class_sums([(of_weight, by_weight), *([] if by_bias is None else [(of_bias, by_bias)])])


def add_products(window: Window, y: Tensor, x: Tensor, weights: Tensor) -> None:
    """y += V x.

    Args:
        window: how x is read.
        y: maps [N, features, H', W'], contiguous; float64 where x is, else float32.
        x: [N, channels, H, W]; float32, float64 or bfloat16.
        weights: V [G, features, channels, *kernel], of the dtype of x, weights of a class side by side.
    """
    _add_products(window, y, x, weights, transposed=False)


def add_transposed(window: Window, gx: Tensor, gy: Tensor, weights: Tensor) -> None:
    """gx += V^T gy; everything as `add_products` has it, gx in the place of x and gy in that of y."""
    _add_products(window, gx, gy, weights, transposed=True)


def _add_products(window: Window, y: Tensor, x: Tensor, weights: Tensor, transposed: bool) -> None:
    assert y.is_contiguous()
    (count, channels, *size), (_, out_channels, *out_size), classes = x.shape, y.shape, len(weights)
    each = count // classes
    feature_stride, channel_stride = weights.stride()[1:3]
    strides = (channel_stride, feature_stride) if transposed else (feature_stride, channel_stride)
    sizes = (each, channels, *size, out_channels, *out_size, weights.stride(0), *strides)
    tiles = triton.cdiv(out_channels, PRODUCT_TILE.rows) * triton.cdiv(each * out_size[0] * out_size[1], PRODUCT_TILE.columns)
    given = (x.contiguous(), weights, y, *sizes)
    launch(products_kernel, classes * tiles, *given, TRANSPOSED=transposed, **window.constants(PRODUCT_TILE))
