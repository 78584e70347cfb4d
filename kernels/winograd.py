"""What goes into and comes out of convolutions by Winograd's F(4x4, 3x3) and F(2x2, 5x5), written in Triton.

A convolution with a kernel of k numbers a side (stride 1) takes 36 products for each tile of t x t outputs, t = 7 - k, where it would take
144 or 100. With d [6, 6] the window of the input that a tile reads, zero outside the map, y [t, t] the outputs of the tile and gy their
gradients, zero outside:

    input            V = B^T d B          V, M and gM are 36 planes of numbers, over all channels and tiles
    output           y = A^T M A          M the sum over input channels of U V, where U = G w G^T are the weights'
    output adjoint   gM = A gy A^T        from which the gradient by U is the sum over tiles of gM V

csrc/cpu/winograd.h says what A, B and G are; the points are 0, 5/8, -5/8, 3/2, -3/2 and infinity, which halve the error in float32 of the
usual 1 and 2. The plain definition is the convolution itself, `fastdc.engines.chain.products`; the products of matrices between these
transforms are torch's (`fastdc.engines.chain.winograd`).

How the work is split: one thread for each tile of a channel, which reads a window and writes a number of each plane, or the other way. The
threads of a program are tiles side by side, so that planes are read and written in whole lines. TRITON_INTERPRET=1, set before Triton is
imported, runs all of it on CPU tensors.
"""
# ruff: noqa: N803 (constexpr arguments are in capitals, as is usual in Triton)

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from fastdc.kernels.launch import launch
from torch import Tensor

PLANES = 36
KERNELS = (3, 5)  # numbers a side
USABLE = hasattr(tl, "tuple")  # before Triton 3.3 kernels had no tuples
BLOCK, WARPS = 128, 4


@triton.jit
def _window(d0, d1, d2, d3, d4, d5):
    """B^T d of six numbers: six."""
    a: tl.constexpr = 0.625
    b: tl.constexpr = 1.5
    near_even = d4 - b * b * d2
    near_odd = a * (d3 - b * b * d1)
    far_even = d4 - a * a * d2
    far_odd = b * (d3 - a * a * d1)
    first = a * a * b * b * d0 - (a * a + b * b) * d2 + d4
    last = a * a * b * b * d1 - (a * a + b * b) * d3 + d5
    return first, near_odd + near_even, near_even - near_odd, far_odd + far_even, far_even - far_odd, last


@triton.jit
def _outputs(m0, m1, m2, m3, m4, m5, TILE: tl.constexpr):
    """A^T m of six numbers: four, of which a tile of two has the first two."""
    a: tl.constexpr = 0.625
    b: tl.constexpr = 1.5
    near = m1 + m2
    far = m3 + m4
    near_odd = a * (m1 - m2)
    far_odd = b * (m3 - m4)
    y0 = m0 + near + far
    y1 = near_odd + far_odd
    if TILE == 2:
        y1 += m5
    return y0, y1, a * a * near + b * b * far, a * a * near_odd + b * b * far_odd + m5


@triton.jit
def _spread(g0, g1, g2, g3, TILE: tl.constexpr):
    """A g of four numbers, or of the first two: six."""
    a: tl.constexpr = 0.625
    b: tl.constexpr = 1.5
    near = g0
    far = g0
    near_odd = a * g1
    far_odd = b * g1
    last = g1
    if TILE == 4:
        near += a * a * g2
        far += b * b * g2
        near_odd += a * a * a * g3
        far_odd += b * b * b * g3
        last = g3
    return g0, near + near_odd, near - near_odd, far + far_odd, far - far_odd, last


@triton.jit
def _tile(total, channels, of_class, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """Of the threads of a program [T]: the number of the map among all maps, that of the tile within it, where in the first plane of its
    class it stands, and whether there is one. Tiles of a channel of a class, `of_class` of them, stand side by side."""
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = number < total
    label = number // (channels * of_class)
    within = number % (channels * of_class)
    channel = within // of_class
    image = label * (of_class // TILES) + within % of_class // TILES
    place = label.to(tl.int64) * (36 * channels * of_class) + within
    return image.to(tl.int64) * channels + channel, within % TILES, place, there


@triton.jit
def _read(maps, row, column, there, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Numbers of maps [T], zero outside them."""
    inside = there & (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
    return tl.load(maps + row * WIDTH + column, mask=inside, other=0.0)


@triton.jit
def _read_window_column(maps, row, column, there, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """B^T of six numbers one below another."""
    return _window(
        _read(maps, row, column, there, HEIGHT, WIDTH),
        _read(maps, row + 1, column, there, HEIGHT, WIDTH),
        _read(maps, row + 2, column, there, HEIGHT, WIDTH),
        _read(maps, row + 3, column, there, HEIGHT, WIDTH),
        _read(maps, row + 4, column, there, HEIGHT, WIDTH),
        _read(maps, row + 5, column, there, HEIGHT, WIDTH),
    )


@triton.jit
def _read_tile_column(maps, row, column, there, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """A of the numbers of a tile one below another."""
    g0 = _read(maps, row, column, there, HEIGHT, WIDTH)
    g1 = _read(maps, row + 1, column, there, HEIGHT, WIDTH)
    g2 = g1
    g3 = g1
    if TILE == 4:
        g2 = _read(maps, row + 2, column, there, HEIGHT, WIDTH)
        g3 = _read(maps, row + 3, column, there, HEIGHT, WIDTH)
    return _spread(g0, g1, g2, g3, TILE)


@triton.jit
def _write_planes(planes, plane, values, there):
    """Six numbers of each tile to planes one after another."""
    kind: tl.constexpr = planes.dtype.element_ty
    for i in tl.static_range(6):
        tl.store(planes + i * plane, values[i].to(kind), mask=there)


@triton.jit
def _read_planes(planes, plane, there, TILE: tl.constexpr):
    """A^T of six numbers of each tile, each `plane` after the one before."""
    return _outputs(
        tl.load(planes, mask=there, other=0.0),
        tl.load(planes + plane, mask=there, other=0.0),
        tl.load(planes + 2 * plane, mask=there, other=0.0),
        tl.load(planes + 3 * plane, mask=there, other=0.0),
        tl.load(planes + 4 * plane, mask=there, other=0.0),
        tl.load(planes + 5 * plane, mask=there, other=0.0),
        TILE,
    )


@triton.jit(do_not_specialize=["total", "channels", "of_class"])
def input_kernel(
    x, planes, total, channels, of_class,
    UP: tl.constexpr, LEFT: tl.constexpr, TILE: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DOWN: tl.constexpr, ACROSS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """V of some tiles.

    Args:
        x: maps [N, channels, HEIGHT, WIDTH], contiguous.
        planes: [G, 36, channels, of_class], written.
        total: tiles of all maps: N * channels * DOWN * ACROSS.
        of_class: tiles of a channel of a class, N / G * DOWN * ACROSS.
        UP, LEFT: how far above and to the left of a map its first window begins.
        DOWN, ACROSS: tiles of a map.
    """
    number, tile, place, there = _tile(total, channels, of_class, DOWN * ACROSS, BLOCK)
    x += number * (HEIGHT * WIDTH)
    row = tile // ACROSS * TILE - UP
    column = tile % ACROSS * TILE - LEFT
    c0 = _read_window_column(x, row, column, there, HEIGHT, WIDTH)
    c1 = _read_window_column(x, row, column + 1, there, HEIGHT, WIDTH)
    c2 = _read_window_column(x, row, column + 2, there, HEIGHT, WIDTH)
    c3 = _read_window_column(x, row, column + 3, there, HEIGHT, WIDTH)
    c4 = _read_window_column(x, row, column + 4, there, HEIGHT, WIDTH)
    c5 = _read_window_column(x, row, column + 5, there, HEIGHT, WIDTH)
    plane = channels.to(tl.int64) * of_class
    for i in tl.static_range(6):
        values = _window(c0[i], c1[i], c2[i], c3[i], c4[i], c5[i])
        _write_planes(planes + place + 6 * i * plane, plane, values, there)


@triton.jit(do_not_specialize=["total", "channels", "of_class"])
def output_adjoint_kernel(
    gy, planes, total, channels, of_class,
    TILE: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DOWN: tl.constexpr, ACROSS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """gM of some tiles of the gradients gy [N, channels, HEIGHT, WIDTH] by the outputs; the rest as `input_kernel` has it."""
    number, tile, place, there = _tile(total, channels, of_class, DOWN * ACROSS, BLOCK)
    gy += number * (HEIGHT * WIDTH)
    row = tile // ACROSS * TILE
    column = tile % ACROSS * TILE
    c0 = _read_tile_column(gy, row, column, there, HEIGHT, WIDTH, TILE)
    c1 = _read_tile_column(gy, row, column + 1, there, HEIGHT, WIDTH, TILE)
    c2 = c1
    c3 = c1
    if TILE == 4:
        c2 = _read_tile_column(gy, row, column + 2, there, HEIGHT, WIDTH, TILE)
        c3 = _read_tile_column(gy, row, column + 3, there, HEIGHT, WIDTH, TILE)
    plane = channels.to(tl.int64) * of_class
    for i in tl.static_range(6):
        values = _spread(c0[i], c1[i], c2[i], c3[i], TILE)
        _write_planes(planes + place + 6 * i * plane, plane, values, there)


@triton.jit(do_not_specialize=["total", "channels", "of_class"])
def output_kernel(
    planes, y, total, channels, of_class,
    ADD: tl.constexpr,
    TILE: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DOWN: tl.constexpr, ACROSS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The outputs y [N, channels, HEIGHT, WIDTH] of some tiles from planes M, written, or added where ADD says so; the rest as
    `input_kernel` has it."""
    kind: tl.constexpr = y.dtype.element_ty
    number, tile, place, there = _tile(total, channels, of_class, DOWN * ACROSS, BLOCK)
    y += number * (HEIGHT * WIDTH)
    row = tile // ACROSS * TILE
    column = (tile % ACROSS * TILE)[:, None] + tl.arange(0, TILE)[None, :]
    plane = channels.to(tl.int64) * of_class
    planes += place
    r0 = _read_planes(planes, 6 * plane, there, TILE)  # of rows, one below another: A^T M, column by column
    r1 = _read_planes(planes + plane, 6 * plane, there, TILE)
    r2 = _read_planes(planes + 2 * plane, 6 * plane, there, TILE)
    r3 = _read_planes(planes + 3 * plane, 6 * plane, there, TILE)
    r4 = _read_planes(planes + 4 * plane, 6 * plane, there, TILE)
    r5 = _read_planes(planes + 5 * plane, 6 * plane, there, TILE)
    for i in tl.static_range(TILE):
        found = _outputs(r0[i], r1[i], r2[i], r3[i], r4[i], r5[i], TILE)
        if TILE == 4:
            values = tl.reshape(tl.join(tl.join(found[0], found[2]), tl.join(found[1], found[3])), [BLOCK, TILE])
        else:
            values = tl.join(found[0], found[1])
        to = y[:, None] + ((row + i) * WIDTH)[:, None] + column
        inside = (there & (row + i < HEIGHT))[:, None] & (column < WIDTH)
        if ADD:
            values += tl.load(to, mask=inside, other=0.0)
        tl.store(to, values.to(kind), mask=inside)


@dataclass(frozen=True)
class Tiling:
    """How the outputs of a convolution are cut into tiles.

    kernel: numbers a side of its windows, 3 or 5. padding: rows and columns of zeros around its input.
    """

    kernel: int
    padding: tuple[int, int]

    @property
    def tile(self) -> int:
        """Outputs a side."""
        return 7 - self.kernel

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Of what comes out for maps of that size."""
        down, across = self.padding
        return height + 2 * down - self.kernel + 1, width + 2 * across - self.kernel + 1

    def tiles(self, height: int, width: int) -> tuple[int, int]:
        """Down and across, of outputs of that size."""
        return -(-height // self.tile), -(-width // self.tile)

    def products(self, height: int, width: int) -> int:
        """Of numbers that the outputs of that size take, for each channel and feature."""
        return PLANES * math.prod(self.tiles(height, width))


def transform_input(x: Tensor, tiling: Tiling, classes: int) -> Tensor:
    """V [G, 36, channels, tiles of a class] of contiguous maps x [N, channels, H, W], N / G of each class."""
    tiles = tiling.tiles(*tiling.output_size(*x.shape[2:]))
    planes = _planes(x, tiles, classes)
    up, left = tiling.padding
    _launch(input_kernel, x, planes, x, classes, tiles, UP=up, LEFT=left, TILE=tiling.tile)
    return planes


def transform_output_adjoint(gy: Tensor, tiling: Tiling, classes: int) -> Tensor:
    """gM [G, 36, features, tiles of a class] of contiguous gradients gy [N, features, H', W'] by the outputs."""
    tiles = tiling.tiles(*gy.shape[2:])
    planes = _planes(gy, tiles, classes)
    _launch(output_adjoint_kernel, gy, planes, gy, classes, tiles, TILE=tiling.tile)
    return planes


def transform_output(planes: Tensor, tiling: Tiling, y: Tensor, add: bool = False) -> None:
    """Write the outputs of M [G, 36, features, tiles of a class] to contiguous maps y [N, features, H', W'], or add them."""
    _launch(output_kernel, planes, y, y, len(planes), tiling.tiles(*y.shape[2:]), ADD=add, TILE=tiling.tile)


def _planes(maps: Tensor, tiles: tuple[int, int], classes: int) -> Tensor:
    """Room for those of maps [N, channels, H, W] with so many tiles down and across: [G, 36, channels, tiles of a class]."""
    return maps.new_empty(classes, PLANES, maps.shape[1], len(maps) // classes * math.prod(tiles))


def _launch(kernel: Any, source: Tensor, target: Tensor, maps: Tensor, classes: int, tiles: tuple[int, int], **constants: Any) -> None:
    """Launch a kernel from `source` to `target` for all tiles of maps [N, channels, H, W]."""
    count, channels, height, width = maps.shape
    (down, across), of_class = tiles, count // classes * math.prod(tiles)
    total = classes * channels * of_class
    constants |= {"HEIGHT": height, "WIDTH": width, "DOWN": down, "ACROSS": across, "BLOCK": BLOCK}
    launch(kernel, triton.cdiv(total, BLOCK), source, target, total, channels, of_class, **constants, num_warps=WARPS)
