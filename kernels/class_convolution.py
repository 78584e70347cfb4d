"""Convolutions whose weights, or the gradients by them, are one for each class, all classes in one launch, written in Triton.

With x the maps that a convolution reads and y what it gives, N = G * b images of G classes one after another, and V weights of each class:

    products            y += V x           each image with the weights of its class
    transposed          gx += V^T gy
    weight gradients    gV += gy x^T       summed over the images of a class; and gb += sum of gy

Each is a product of matrices of which one is never written down: of all windows of the maps, each a column of channels * kernel numbers.
The plain definition is `fastdc.engines.chain.products`, a convolution for each class.

How the work is split: one program for each tile of what comes out. What is summed over goes offset by offset of the kernel, a block of
channels at a time, so that where a window lies is known for a whole block; of few channels it goes over all pairs of channel and offset.
Where gradients by weights have few tiles and many positions, the positions of a class are split into parts, each with a sum of its own,
which `class_sums` adds in one more launch. Sums are float32 (float64 of float64), in an order that the sizes alone decide.
TRITON_INTERPRET=1, set before Triton is imported, runs all of it on CPU tensors.
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
    """Of what comes out, how much is summed over in a step, the warps of a program, and how many steps are loaded ahead."""

    rows: int
    columns: int
    step: int
    warps: int
    stages: int

    def within(self, rows: int, columns: int) -> Tile:
        """No larger than so many rows and columns need."""
        return self._replace(rows=_side(rows, self.rows), columns=_side(columns, self.columns))

    def count(self, rows: int, columns: int) -> int:
        """How many cover so many rows and columns."""
        return triton.cdiv(rows, self.rows) * triton.cdiv(columns, self.columns)


# The order within a sum follows from these and from sizes.
GRADIENT_TILES = (Tile(64, 128, 32, warps=8, stages=3),)
PRODUCT_TILES = Tile(64, 128, 32, warps=8, stages=3), Tile(64, 32, 32, warps=4, stages=3)
PROGRAMS, POSITIONS = 1024, 1024  # positions are split until there are so many programs, or a part has no more than that
ENOUGH = 128  # programs of a tile of products; of less the next one is taken
SMALLEST = 16  # side of a tile, and the channels from which on the sums go offset by offset


def _side(wanted: int, most: int) -> int:
    return max(SMALLEST, min(most, triton.next_power_of_2(wanted)))


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
    x, image, place, inside, channel, offset, channels, height, width, other_width,
    KERNEL_WIDTH: tl.constexpr, STRIDE_DOWN: tl.constexpr, STRIDE_ACROSS: tl.constexpr,
    PADDING_DOWN: tl.constexpr, PADDING_ACROSS: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """Of maps x [N, channels, height, width] what places in maps `other_width` wide meet, zero outside of x; the arguments are broadcast.

    Args:
        image, place: which image, and where in its map, row by row.
        inside: whether it is wanted.
        channel, offset: which number of a window.
    """
    row, row_there = _source(place // other_width, offset // KERNEL_WIDTH, STRIDE_DOWN, PADDING_DOWN, TRANSPOSED)
    column, column_there = _source(place % other_width, offset % KERNEL_WIDTH, STRIDE_ACROSS, PADDING_ACROSS, TRANSPOSED)
    inside = inside & row_there & column_there & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = image * (channels * height * width) + row * width + column
    return tl.load(x + (index + channel * (height * width)), mask=inside & (channel < channels), other=0.0)


@triton.jit
def _summed(step, channels, STEP: tl.constexpr, OFFSETS: tl.constexpr, BY_OFFSET: tl.constexpr):
    """Which channels a step of a sum goes over, and which offset: one, or one for each of the channels."""
    if BY_OFFSET:
        blocks = tl.cdiv(channels, STEP)
        channel = step % blocks * STEP + tl.arange(0, STEP)
        offset = step // blocks
    else:
        number = step * STEP + tl.arange(0, STEP)
        channel = number // OFFSETS
        offset = number % OFFSETS
    return channel, offset


@triton.jit
def _steps(channels, STEP: tl.constexpr, OFFSETS: tl.constexpr, BY_OFFSET: tl.constexpr):
    """How many steps go over all numbers of a window."""
    return tl.cdiv(channels, STEP) * OFFSETS if BY_OFFSET else tl.cdiv(channels * OFFSETS, STEP)


@triton.jit(do_not_specialize=["each", "height", "width", "out_height", "out_width", "parts", "span"])
def weight_gradients_kernel(
    x, gy, by_weight, by_bias, each, channels, height, width, features, out_height, out_width, parts, span,
    OFFSETS: tl.constexpr, KERNEL_WIDTH: tl.constexpr, STRIDE_DOWN: tl.constexpr, STRIDE_ACROSS: tl.constexpr,
    PADDING_DOWN: tl.constexpr, PADDING_ACROSS: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr, BY_OFFSET: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One tile of gy x^T of one part of the positions of a class; where BIAS says so, the sum of gy as well.

    Args:
        x: maps [G * each, channels, height, width], contiguous.
        gy: [G * each, features, out_height, out_width], contiguous.
        by_weight: [G, parts, features, channels * OFFSETS], written.
        by_bias: [G, parts, features], written.
        span: positions of a part.
    """
    area = out_height * out_width
    across = _steps(channels, COLUMNS, OFFSETS, BY_OFFSET)
    tiles = across * tl.cdiv(features, ROWS)
    tile = tl.program_id(0) % tiles
    part = tl.program_id(0) // tiles
    channel, offset = _summed(tile % across, channels, COLUMNS, OFFSETS, BY_OFFSET)
    offsets = offset if BY_OFFSET else offset[:, None]
    feature = tile // across * ROWS + tl.arange(0, ROWS)
    first_image = (part // parts * each).to(tl.int64)
    start = part % parts * span
    stop = tl.minimum(start + span, each * area)
    kind: tl.constexpr = by_weight.dtype.element_ty
    total = tl.zeros([ROWS, COLUMNS], kind)
    of_gy = tl.zeros([ROWS, STEP], kind)
    for first in range(start, stop, STEP):
        position = first + tl.arange(0, STEP)
        image = position // area - first // area
        place = position % area
        inside = position < stop
        base = first_image + first // area
        g = tl.load(
            gy + base * (features * area) + (feature[:, None] * area + (image * (features * area) + place)[None, :]),
            mask=(feature < features)[:, None] & inside[None, :], other=0.0,
        )  # fmt: skip
        windows = _windows(
            x + base * (channels * height * width), image[None, :], place[None, :], inside[None, :], channel[:, None], offsets,
            channels, height, width, out_width, KERNEL_WIDTH, STRIDE_DOWN, STRIDE_ACROSS, PADDING_DOWN, PADDING_ACROSS, False,
        )  # fmt: skip
        total = tl.dot(g, tl.trans(windows), total, input_precision=PRECISION, out_dtype=kind)
        if BIAS:
            of_gy += g.to(kind)
    row = part.to(tl.int64) * features + feature
    number = channel * OFFSETS + offset
    wanted = (feature < features)[:, None] & (channel < channels)[None, :]
    tl.store(by_weight + row[:, None] * (channels * OFFSETS) + number[None, :], total, mask=wanted)
    if BIAS:
        tl.store(by_bias + row, tl.sum(of_gy, 1), mask=(feature < features) & (tile % across == 0))


@triton.jit(do_not_specialize=["each", "height", "width", "out_height", "out_width"])
def products_kernel(
    x, weights, y, each, channels, height, width, out_channels, out_height, out_width,
    OFFSETS: tl.constexpr, KERNEL_WIDTH: tl.constexpr, STRIDE_DOWN: tl.constexpr, STRIDE_ACROSS: tl.constexpr,
    PADDING_DOWN: tl.constexpr, PADDING_ACROSS: tl.constexpr, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr, BY_OFFSET: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One tile of y += V x of a class, or of y += V^T x.

    Args:
        x: maps [G * each, channels, height, width], contiguous.
        weights: [G, OFFSETS, out_channels, channels], or of V^T channels before out_channels; contiguous.
        y: [G * each, out_channels, out_height, out_width], contiguous; added to.
    """
    area = out_height * out_width
    across = tl.cdiv(each * area, COLUMNS)
    tiles = across * tl.cdiv(out_channels, ROWS)
    tile = tl.program_id(0) % tiles
    label = (tl.program_id(0) // tiles).to(tl.int64)
    first = tile % across * COLUMNS
    position = first + tl.arange(0, COLUMNS)
    out = tile // across * ROWS + tl.arange(0, ROWS)
    image = position // area - first // area
    place = position % area
    base = label * each + first // area
    inside = position < each * area
    x += base * (channels * height * width)
    y += base * (out_channels * area)
    weights += label * (OFFSETS * out_channels * channels)
    kind: tl.constexpr = y.dtype.element_ty
    total = tl.zeros([ROWS, COLUMNS], kind)
    for step in range(_steps(channels, STEP, OFFSETS, BY_OFFSET)):
        channel, offset = _summed(step, channels, STEP, OFFSETS, BY_OFFSET)
        offsets = offset if BY_OFFSET else offset[:, None]
        of_offset = offset * out_channels * channels
        if TRANSPOSED:
            there = (channel < channels)[:, None] & (out < out_channels)[None, :]
            v = tl.trans(tl.load(weights + ((of_offset + channel * out_channels)[:, None] + out[None, :]), mask=there, other=0.0))
        else:
            there = (out < out_channels)[:, None] & (channel < channels)[None, :]
            v = tl.load(weights + ((of_offset + channel)[None, :] + out[:, None] * channels), mask=there, other=0.0)
        windows = _windows(
            x, image[None, :], place[None, :], inside[None, :], channel[:, None], offsets, channels, height, width, out_width,
            KERNEL_WIDTH, STRIDE_DOWN, STRIDE_ACROSS, PADDING_DOWN, PADDING_ACROSS, TRANSPOSED,
        )  # fmt: skip
        total = tl.dot(v, windows, total, input_precision=PRECISION, out_dtype=kind)
    index = y + (out[:, None] * area + (image * (out_channels * area) + place)[None, :])
    wanted = (out < out_channels)[:, None] & inside[None, :]
    tl.store(index, tl.load(index, mask=wanted, other=0.0) + total, mask=wanted)


@dataclass(frozen=True)
class Window:
    """How the windows of a convolution lie in maps, and how products of float32 are rounded, as `tl.dot` calls it."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    precision: str = "ieee"

    @property
    def offsets(self) -> int:
        """Numbers of a window of one channel."""
        return self.kernel[0] * self.kernel[1]

    def by_offset(self, channels: int) -> bool:
        """Whether what belongs to so many channels is gone over offset by offset."""
        return channels >= SMALLEST

    def constants(self, tile: Tile, channels: int, dtype: torch.dtype) -> dict[str, Any]:
        """As a kernel takes it that computes such tiles and goes over so many channels."""
        places = ("STRIDE_DOWN", "STRIDE_ACROSS", "PADDING_DOWN", "PADDING_ACROSS", "ROWS", "COLUMNS", "STEP", "num_warps", "num_stages")
        return {
            **dict(zip(places, (*self.stride, *self.padding, *tile), strict=True)),
            "OFFSETS": self.offsets,
            "KERNEL_WIDTH": self.kernel[1],
            "PRECISION": self.precision if dtype == torch.float32 else "ieee",
            "BY_OFFSET": self.by_offset(channels),
        }


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
    times, numbers = (window.offsets, channels) if window.by_offset(channels) else (1, channels * window.offsets)
    tile = GRADIENT_TILES[-1].within(features, numbers)
    tiles = times * tile.count(features, numbers)
    parts = max(1, min(triton.cdiv(PROGRAMS, classes * tiles), triton.cdiv(positions, POSITIONS)))
    span = triton.cdiv(positions, parts)
    of_weight = by_weight.new_empty(classes * parts, *by_weight.shape[1:])
    of_bias = by_weight.new_empty(classes * parts, features) if by_bias is not None else of_weight
    sizes = (each, channels, *size, features, *out_size, parts, span)
    given = (x.contiguous(), gy.contiguous(), of_weight, of_bias, *sizes)
    constants = window.constants(tile, channels, x.dtype)
    launch(weight_gradients_kernel, classes * parts * tiles, *given, BIAS=by_bias is not None, **constants)
    add_class_sums([(of_weight, by_weight), *([] if by_bias is None else [(of_bias, by_bias)])])


def laid_out(weights: Tensor) -> Tensor:
    """Weights of each class [G, features, channels, *kernel] as products read them: [G, *kernel, features, channels], contiguous."""
    return weights.permute(0, 3, 4, 1, 2).contiguous()


def add_products(window: Window, y: Tensor, x: Tensor, weights: Tensor) -> None:
    """y += V x.

    Args:
        window: how x is read.
        y: maps [N, features, H', W'], contiguous; float64 where x is, else float32.
        x: [N, channels, H, W]; float32, float64 or bfloat16.
        weights: V [G, *kernel, features, channels], of the dtype of x, contiguous.
    """
    _add_products(window, y, x, weights, transposed=False)


def add_transposed(window: Window, gx: Tensor, gy: Tensor, weights: Tensor) -> None:
    """gx += V^T gy; everything as `add_products` has it, gx in the place of x and gy in that of y."""
    _add_products(window, gx, gy, weights, transposed=True)


def _add_products(window: Window, y: Tensor, x: Tensor, weights: Tensor, transposed: bool) -> None:
    assert y.is_contiguous()
    (count, channels, *size), (_, out_channels, *out_size), classes = x.shape, y.shape, len(weights)
    each = count // classes
    covered = (out_channels, each * out_size[0] * out_size[1])
    tiles = [tile.within(*covered) for tile in PRODUCT_TILES]
    tile = next((tile for tile in tiles if classes * tile.count(*covered) >= ENOUGH), tiles[-1])
    given = (x.contiguous(), weights, y, each, channels, *size, out_channels, *out_size)
    constants = window.constants(tile, channels, x.dtype)
    launch(products_kernel, classes * tile.count(*covered), *given, TRANSPOSED=transposed, **constants)
