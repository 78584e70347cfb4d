"""Norm, activation and pooling of a block in one launch, forward, back, and both along a direction, written in Triton.

With x a map, mean and r = 1 / sqrt(variance + eps) those of the set of numbers that it belongs to, <.> the mean over that set, f the
activation and P the pooling (P^T its transpose):

    x^ = r (x - mean)           z = w x^ + b            y = P f(z)                    J u = r (u - <u> - x^ <x^ u>)

    forward       y
    back          gz = f'(z) P^T gy              gx = J u with u = w gz               gw = sum gz x^       gb = sum gz
    along         x^' = J x'                     z' = w x^' + w' x^ + b'              y' = P (f'(z) z')
    back along    gz' = f'(z) P^T gy' + f''(z) z' P^T gy                              u' = w gz' + w' gz
                  gx' = J u' - r <x^ x'> J u - r (x^' <x^ u> + x^ <x^' u>)            gw' = sum gz' x^ + gz x^'     gb' = sum gz'

Where mean and r are constants (a frozen batch norm, no norm at all) J u = r u, and the last two terms of gx' are zero. The largest of a
window is the first of several. The plain definition is `fastdc.engines.chain`, its norms, activations and poolings one after another.

How the work is split: one program for each image and set of numbers, a map for instance norm, a group of maps for group norm. It goes
over its set as often as sums must be known before what depends on them; what it reads again lies in the cache. Nothing of the size of a
map is kept but x: x^, z and the places of the largest are computed again. Sums are in the dtype of the maps, in an order that the sizes
alone decide. TRITON_INTERPRET=1, set before Triton is imported, runs all of it on CPU tensors.
"""
# ruff: noqa: N803 (constexpr arguments are in capitals, as is usual in Triton)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from fastdc.kernels.launch import launch
from torch import Tensor

ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh", "swish")  # those that the kernels have code for
POOLINGS = ("none", "avg", "max")  # windows of 2 by 2, one beside another

BLOCK = 1024  # numbers of a step: a map of 32x32
WARPS = 4


@triton.jit
def _activated(z, SLOPE: tl.constexpr, ACTIVATION: tl.constexpr):
    """f(z), f'(z) and f''(z)."""
    zero = z * 0.0
    if ACTIVATION == "relu":
        value = tl.where(z > 0, z, zero)
        first = tl.where(z > 0, zero + 1.0, zero)
        second = zero
    elif ACTIVATION == "leaky_relu":
        first = tl.where(z > 0, zero + 1.0, zero + SLOPE)
        value = z * first
        second = zero
    else:
        if ACTIVATION == "tanh":
            s = 1.0 / (1.0 + tl.exp(-2.0 * z))
            value = 2.0 * s - 1.0
            first = 4.0 * s * (1.0 - s)
            second = -2.0 * value * first
        else:
            s = 1.0 / (1.0 + tl.exp(-z))
            if ACTIVATION == "sigmoid":
                value = s
                first = s * (1.0 - s)
                second = first * (1.0 - 2.0 * s)
            else:
                tl.static_assert(ACTIVATION == "swish", "the kernel has no code for this activation")
                value = z * s
                first = s + z * s * (1.0 - s)
                second = s * (1.0 - s) * (2.0 + z * (1.0 - 2.0 * s))
    return value, first, second


@triton.jit
def _places(step, height, width, SIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Where the numbers of a step lie in a map, window by window [BLOCK / SIDE^2, SIDE^2], and whether there; of each window its place
    in the pooled map [BLOCK / SIDE^2], and whether it has one: at an edge what fills no window is left out of the pooling."""
    across = (width + (SIDE - 1)) // SIDE
    down = (height + (SIDE - 1)) // SIDE
    window = step * (BLOCK // (SIDE * SIDE)) + tl.arange(0, BLOCK // (SIDE * SIDE))
    element = tl.arange(0, SIDE * SIDE)
    top = (window // across) * SIDE
    left = (window % across) * SIDE
    row = top[:, None] + (element // SIDE)[None, :]
    column = left[:, None] + (element % SIDE)[None, :]
    inside = (window < across * down)[:, None] & (row < height) & (column < width)
    pooled = (top // SIDE) * (width // SIDE) + left // SIDE
    whole = (window < across * down) & (top + SIDE <= height) & (left + SIDE <= width)
    return row * width + column, inside, pooled, whole


@triton.jit
def _steps(height, width, SIDE: tl.constexpr, BLOCK: tl.constexpr):
    """How many steps cover a map."""
    windows = ((width + (SIDE - 1)) // SIDE) * ((height + (SIDE - 1)) // SIDE)
    per_step = BLOCK // (SIDE * SIDE)
    return (windows + (per_step - 1)) // per_step


@triton.jit
def _pooled(values, chosen, POOLING: tl.constexpr):
    """P of windows [W, E]: [W]."""
    if POOLING == "max":
        result = tl.sum(tl.where(chosen, values, 0.0), 1)
    elif POOLING == "avg":
        result = tl.sum(values, 1) * 0.25
    else:
        result = tl.sum(values, 1)  # of one number
    return result


@triton.jit
def _chosen(values, POOLING: tl.constexpr):
    """Which number of each window is the largest, the first of several [W, E]."""
    if POOLING == "max":
        places = tl.arange(0, 4)[None, :]
        result = places == tl.argmax(values, 1, tie_break_left=True)[:, None]
    else:
        result = tl.full(values.shape, 1, tl.int1)
    return result


@triton.jit
def _spread(pooled, chosen, POOLING: tl.constexpr):
    """P^T of numbers [W], as windows [W, E]."""
    share = 0.25 if POOLING == "avg" else 1.0
    return tl.where(chosen, pooled[:, None] * share, 0.0)


@triton.jit
def _normal(x, index, inside, mean, scale):
    """x^ of the numbers at `index`, zero outside."""
    values = tl.load(x + index, mask=inside, other=0.0)
    return tl.where(inside, (values - mean) * scale, 0.0)


@triton.jit
def _channel(pointer, channel, GIVEN: tl.constexpr, neutral):
    """A number of a channel; `neutral` where there are none."""
    return tl.load(pointer + channel) if GIVEN else neutral


@triton.jit(do_not_specialize=["sets", "channels", "height", "width"])
def forward_kernel(
    x, weight, bias, mean, scale, y, sets, channels, height, width,
    EPS: tl.constexpr, SLOPE: tl.constexpr,
    NORM: tl.constexpr, AFFINE: tl.constexpr, ACTIVATION: tl.constexpr, POOLING: tl.constexpr, SIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y of one image and set; with NORM "sets" mean and r are written, with "constants" they are read, with "none" they are 0 and 1.

    Args:
        x: maps [N, sets * channels, height, width], contiguous.
        weight, bias: of each channel [sets * channels], where AFFINE says so.
        mean, scale: [N, sets], or of constants [sets].
        y: pooled maps, written.
        channels: of a set.
    """
    program = tl.program_id(0).to(tl.int64)
    first = (program % sets) * channels
    area = height * width
    pooled_area = (height // SIDE) * (width // SIDE)
    x += program * channels * area
    y += program * channels * pooled_area
    steps = _steps(height, width, SIDE, BLOCK)
    kind: tl.constexpr = x.dtype.element_ty
    m, r = _statistics(x, mean, scale, program, sets, channels, height, width, EPS, NORM, SIDE, BLOCK)
    for channel in range(channels):
        w = _channel(weight, first + channel, AFFINE, 1.0)
        b = _channel(bias, first + channel, AFFINE, 0.0)
        for step in range(steps):
            index, inside, pooled, whole = _places(step, height, width, SIDE, BLOCK)
            z = w * _normal(x + channel * area, index, inside, m, r) + b
            value, _, _ = _activated(z, SLOPE, ACTIVATION)
            tl.store(y + channel * pooled_area + pooled, _pooled(value, _chosen(value, POOLING), POOLING).to(kind), mask=whole)


@triton.jit
def _statistics(
    x, mean, scale, program, sets, channels, height, width,
    EPS: tl.constexpr, NORM: tl.constexpr, SIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Mean and r of the set of a program; computed and written for NORM "sets"."""
    kind: tl.constexpr = x.dtype.element_ty
    if NORM == "sets":
        area = height * width
        count = channels * area
        lanes = tl.arange(0, BLOCK)
        total = tl.zeros([BLOCK], kind)
        for start in range(0, count, BLOCK):
            total += tl.load(x + start + lanes, mask=lanes < count - start, other=0.0)
        m = tl.sum(total, 0) / count
        total = tl.zeros([BLOCK], kind)
        for start in range(0, count, BLOCK):
            values = tl.load(x + start + lanes, mask=lanes < count - start, other=0.0)
            centred = tl.where(lanes < count - start, values - m, 0.0)
            total += centred * centred
        r = 1.0 / tl.sqrt(tl.sum(total, 0) / count + EPS)
        tl.store(mean + program, m.to(kind))
        tl.store(scale + program, r.to(kind))
    elif NORM == "constants":
        m = tl.load(mean + program % sets)
        r = tl.load(scale + program % sets)
    else:
        m = tl.zeros([], kind)
        r = tl.zeros([], kind) + 1.0
    return m, r


@triton.jit
def _kept(x, mean, scale, program, sets, NORM: tl.constexpr):
    """Mean and r of the set of a program, which the forward pass has written or which are constants."""
    kind: tl.constexpr = x.dtype.element_ty
    if NORM == "sets":
        m = tl.load(mean + program)
        r = tl.load(scale + program)
    elif NORM == "constants":
        m = tl.load(mean + program % sets)
        r = tl.load(scale + program % sets)
    else:
        m = tl.zeros([], kind)
        r = tl.zeros([], kind) + 1.0
    return m, r


@triton.jit(do_not_specialize=["sets", "channels", "height", "width"])
def back_kernel(
    x, weight, bias, mean, scale, gy, gx, gw, gb, sets, channels, height, width,
    SLOPE: tl.constexpr,
    NORM: tl.constexpr, AFFINE: tl.constexpr, ACTIVATION: tl.constexpr, POOLING: tl.constexpr, WANTED: tl.constexpr, SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """gx of one image and set; where WANTED says so gw and gb of its channels [N, sets * channels]. The rest as `forward_kernel` has it."""
    program = tl.program_id(0).to(tl.int64)
    first = (program % sets) * channels
    area = height * width
    pooled_area = (height // SIDE) * (width // SIDE)
    x += program * channels * area
    gx += program * channels * area
    gy += program * channels * pooled_area
    steps = _steps(height, width, SIDE, BLOCK)
    kind: tl.constexpr = x.dtype.element_ty
    m, r = _kept(x, mean, scale, program, sets, NORM)
    mean_u = tl.zeros([], kind)
    mean_xu = tl.zeros([], kind)
    if NORM == "sets" or WANTED:
        for channel in range(channels):
            w = _channel(weight, first + channel, AFFINE, 1.0)
            b = _channel(bias, first + channel, AFFINE, 0.0)
            sum_gz = tl.zeros([BLOCK // (SIDE * SIDE), SIDE * SIDE], kind)
            sum_xgz = tl.zeros([BLOCK // (SIDE * SIDE), SIDE * SIDE], kind)
            for step in range(steps):
                index, inside, pooled, whole = _places(step, height, width, SIDE, BLOCK)
                normal = _normal(x + channel * area, index, inside, m, r)
                value, slope_at, _ = _activated(w * normal + b, SLOPE, ACTIVATION)
                g = tl.load(gy + channel * pooled_area + pooled, mask=whole, other=0.0)
                gz = slope_at * _spread(g, _chosen(value, POOLING), POOLING)
                sum_gz += gz
                sum_xgz += normal * gz
            of_gz = tl.sum(tl.sum(sum_gz, 1), 0)
            of_xgz = tl.sum(tl.sum(sum_xgz, 1), 0)
            mean_u += w * of_gz
            mean_xu += w * of_xgz
            if WANTED:
                tl.store(gb + program * channels + channel, of_gz.to(kind))
                tl.store(gw + program * channels + channel, of_xgz.to(kind))
        mean_u = mean_u / (channels * area)
        mean_xu = mean_xu / (channels * area)
    for channel in range(channels):
        w = _channel(weight, first + channel, AFFINE, 1.0)
        b = _channel(bias, first + channel, AFFINE, 0.0)
        for step in range(steps):
            index, inside, pooled, whole = _places(step, height, width, SIDE, BLOCK)
            normal = _normal(x + channel * area, index, inside, m, r)
            value, slope_at, _ = _activated(w * normal + b, SLOPE, ACTIVATION)
            g = tl.load(gy + channel * pooled_area + pooled, mask=whole, other=0.0)
            u = w * slope_at * _spread(g, _chosen(value, POOLING), POOLING)
            if NORM == "sets":
                u = u - mean_u - normal * mean_xu
            tl.store(gx + channel * area + index, (r * u).to(kind), mask=inside)


@triton.jit(do_not_specialize=["sets", "channels", "height", "width", "direction_stride", "each"])
def along_kernel(
    x, weight, bias, mean, scale, tx, tw, tb, tmean, tdot, ty, sets, channels, height, width, direction_stride, each,
    SLOPE: tl.constexpr,
    NORM: tl.constexpr, AFFINE: tl.constexpr, ACTIVATION: tl.constexpr, POOLING: tl.constexpr, TURNED: tl.constexpr, SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """ty of one image and set, and <x'> and <x^ x'> [N, sets] of it; the rest as `forward_kernel` has it.

    Args:
        tx: x' [N, sets * channels, height, width].
        tw, tb: w' and b' of each class, where TURNED says so: [G, sets * channels], classes `direction_stride` numbers apart.
        each: images of a class.
    """
    program = tl.program_id(0).to(tl.int64)
    first = (program % sets) * channels
    turned = (program // sets) // each * direction_stride + first
    area = height * width
    pooled_area = (height // SIDE) * (width // SIDE)
    x += program * channels * area
    tx += program * channels * area
    ty += program * channels * pooled_area
    steps = _steps(height, width, SIDE, BLOCK)
    kind: tl.constexpr = x.dtype.element_ty
    m, r = _kept(x, mean, scale, program, sets, NORM)
    mean_tx = tl.zeros([], kind)
    mean_xtx = tl.zeros([], kind)
    if NORM == "sets":
        count = channels * area
        lanes = tl.arange(0, BLOCK)
        sum_tx = tl.zeros([BLOCK], kind)
        sum_xtx = tl.zeros([BLOCK], kind)
        for start in range(0, count, BLOCK):
            inside = lanes < count - start
            t = tl.load(tx + start + lanes, mask=inside, other=0.0)
            sum_tx += t
            sum_xtx += t * _normal(x, start + lanes, inside, m, r)
        mean_tx = tl.sum(sum_tx, 0) / count
        mean_xtx = tl.sum(sum_xtx, 0) / count
        tl.store(tmean + program, mean_tx.to(kind))
        tl.store(tdot + program, mean_xtx.to(kind))
    for channel in range(channels):
        w = _channel(weight, first + channel, AFFINE, 1.0)
        b = _channel(bias, first + channel, AFFINE, 0.0)
        w_along = _channel(tw, turned + channel, TURNED, 0.0)
        b_along = _channel(tb, turned + channel, TURNED, 0.0)
        for step in range(steps):
            index, inside, pooled, whole = _places(step, height, width, SIDE, BLOCK)
            normal = _normal(x + channel * area, index, inside, m, r)
            value, slope_at, _ = _activated(w * normal + b, SLOPE, ACTIVATION)
            t = tl.load(tx + channel * area + index, mask=inside, other=0.0)
            if NORM == "sets":
                t = t - mean_tx - normal * mean_xtx
            tz = w * (r * t) + w_along * normal + b_along
            tl.store(ty + channel * pooled_area + pooled, _pooled(slope_at * tz, _chosen(value, POOLING), POOLING).to(kind), mask=whole)


@triton.jit
def _back_along(
    x, tx, gy, tgy, index, inside, pooled, whole, m, r, mean_tx, mean_xtx, w, b, w_along, b_along,
    SLOPE: tl.constexpr, NORM: tl.constexpr, ACTIVATION: tl.constexpr, POOLING: tl.constexpr,
):  # fmt: skip
    """x^, x^', gz and gz' of the numbers at `index`."""
    normal = _normal(x, index, inside, m, r)
    value, slope_at, bend = _activated(w * normal + b, SLOPE, ACTIVATION)
    chosen = _chosen(value, POOLING)
    t = tl.load(tx + index, mask=inside, other=0.0)
    if NORM == "sets":
        t = tl.where(inside, t - mean_tx - normal * mean_xtx, 0.0)
    tnormal = r * t
    g = _spread(tl.load(gy + pooled, mask=whole, other=0.0), chosen, POOLING)
    tg = _spread(tl.load(tgy + pooled, mask=whole, other=0.0), chosen, POOLING)
    return normal, tnormal, slope_at * g, slope_at * tg + bend * (w * tnormal + w_along * normal + b_along) * g


@triton.jit(do_not_specialize=["sets", "channels", "height", "width", "direction_stride", "each"])
def back_along_kernel(
    x, weight, bias, mean, scale, tx, tw, tb, tmean, tdot, gy, tgy, tgx, hw, hb, sets, channels, height, width, direction_stride, each,
    SLOPE: tl.constexpr,
    NORM: tl.constexpr, AFFINE: tl.constexpr, ACTIVATION: tl.constexpr, POOLING: tl.constexpr, TURNED: tl.constexpr, WANTED: tl.constexpr,
    SIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """gx' of one image and set; where WANTED says so gw' and gb' of its channels in hw and hb. The rest as the other kernels have it."""
    program = tl.program_id(0).to(tl.int64)
    first = (program % sets) * channels
    turned = (program // sets) // each * direction_stride + first
    area = height * width
    pooled_area = (height // SIDE) * (width // SIDE)
    x += program * channels * area
    tx += program * channels * area
    tgx += program * channels * area
    gy += program * channels * pooled_area
    tgy += program * channels * pooled_area
    steps = _steps(height, width, SIDE, BLOCK)
    kind: tl.constexpr = x.dtype.element_ty
    m, r = _kept(x, mean, scale, program, sets, NORM)
    mean_tx = tl.zeros([], kind)
    mean_xtx = tl.zeros([], kind)
    if NORM == "sets":
        mean_tx = tl.load(tmean + program)
        mean_xtx = tl.load(tdot + program)
    mean_u = tl.zeros([], kind)
    mean_xu = tl.zeros([], kind)
    mean_tu = tl.zeros([], kind)
    mean_xtu = tl.zeros([], kind)
    mean_txu = tl.zeros([], kind)
    if NORM == "sets" or WANTED:
        for channel in range(channels):
            w = _channel(weight, first + channel, AFFINE, 1.0)
            b = _channel(bias, first + channel, AFFINE, 0.0)
            w_along = _channel(tw, turned + channel, TURNED, 0.0)
            b_along = _channel(tb, turned + channel, TURNED, 0.0)
            sum_gz = tl.zeros([BLOCK // (SIDE * SIDE), SIDE * SIDE], kind)
            sum_xgz = tl.zeros([BLOCK // (SIDE * SIDE), SIDE * SIDE], kind)
            sum_tgz = tl.zeros([BLOCK // (SIDE * SIDE), SIDE * SIDE], kind)
            sum_xtgz = tl.zeros([BLOCK // (SIDE * SIDE), SIDE * SIDE], kind)
            sum_txgz = tl.zeros([BLOCK // (SIDE * SIDE), SIDE * SIDE], kind)
            for step in range(steps):
                index, inside, pooled, whole = _places(step, height, width, SIDE, BLOCK)
                normal, tnormal, gz, tgz = _back_along(
                    x + channel * area, tx + channel * area, gy + channel * pooled_area, tgy + channel * pooled_area, index, inside, pooled,
                    whole, m, r, mean_tx, mean_xtx, w, b, w_along, b_along, SLOPE, NORM, ACTIVATION, POOLING,
                )  # fmt: skip
                sum_gz += gz
                sum_xgz += normal * gz
                sum_tgz += tgz
                sum_xtgz += normal * tgz
                sum_txgz += tnormal * gz
            of_gz = tl.sum(tl.sum(sum_gz, 1), 0)
            of_xgz = tl.sum(tl.sum(sum_xgz, 1), 0)
            of_tgz = tl.sum(tl.sum(sum_tgz, 1), 0)
            of_xtgz = tl.sum(tl.sum(sum_xtgz, 1), 0)
            of_txgz = tl.sum(tl.sum(sum_txgz, 1), 0)
            mean_u += w * of_gz
            mean_xu += w * of_xgz
            mean_tu += w * of_tgz + w_along * of_gz
            mean_xtu += w * of_xtgz + w_along * of_xgz
            mean_txu += w * of_txgz
            if WANTED:
                tl.store(hb + program * channels + channel, of_tgz.to(kind))
                tl.store(hw + program * channels + channel, (of_xtgz + of_txgz).to(kind))
        count = channels * area
        mean_u = mean_u / count
        mean_xu = mean_xu / count
        mean_tu = mean_tu / count
        mean_xtu = mean_xtu / count
        mean_txu = mean_txu / count
    for channel in range(channels):
        w = _channel(weight, first + channel, AFFINE, 1.0)
        b = _channel(bias, first + channel, AFFINE, 0.0)
        w_along = _channel(tw, turned + channel, TURNED, 0.0)
        b_along = _channel(tb, turned + channel, TURNED, 0.0)
        for step in range(steps):
            index, inside, pooled, whole = _places(step, height, width, SIDE, BLOCK)
            normal, tnormal, gz, tgz = _back_along(
                x + channel * area, tx + channel * area, gy + channel * pooled_area, tgy + channel * pooled_area, index, inside, pooled,
                whole, m, r, mean_tx, mean_xtx, w, b, w_along, b_along, SLOPE, NORM, ACTIVATION, POOLING,
            )  # fmt: skip
            result = w * tgz + w_along * gz
            if NORM == "sets":
                derived = w * gz - mean_u - normal * mean_xu
                result = result - mean_tu - normal * mean_xtu - r * mean_xtx * derived - tnormal * mean_xu - normal * mean_txu
            tl.store(tgx + channel * area + index, (r * result).to(kind), mask=inside)


@dataclass(frozen=True)
class Block:
    """What stands in a block, and how its numbers are split into sets."""

    norm: str  # "sets", "constants" or "none"
    sets: int  # of an image
    eps: float
    activation: str  # one of ACTIVATIONS
    slope: float  # of a leaky one
    pooling: str  # one of POOLINGS

    @property
    def side(self) -> int:
        """Of a window."""
        return 1 if self.pooling == "none" else 2

    def pooled_size(self, x: Tensor) -> tuple[int, ...]:
        """Of what comes out for maps x [N, channels, H, W]."""
        return (*x.shape[:2], x.shape[2] // self.side, x.shape[3] // self.side)

    def launch(self, kernel: Any, x: Tensor, *arguments: Any, **constants: Any) -> None:
        """Launch a kernel for maps x, of whose sizes it is told after its tensors; `tail` follows them."""
        tail = constants.pop("tail", ())
        count, channels, height, width = x.shape
        sizes = (self.sets, channels // self.sets, height, width)
        given = {"NORM": self.norm, "ACTIVATION": self.activation, "SLOPE": self.slope, "POOLING": self.pooling, "SIDE": self.side}
        launch(kernel, count * self.sets, x, *arguments, *sizes, *tail, **given, **constants, BLOCK=BLOCK, num_warps=WARPS)


@dataclass(frozen=True)
class Affine:
    """The weight and bias of a norm [channels], and its statistics: [N, sets], or of constants [sets]."""

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None
    scale: Tensor | None

    def tensors(self, like: Tensor) -> tuple[Tensor, ...]:
        """All of them, `like` in the place of those that are not there, which is not read."""
        return tuple(like if value is None else value for value in (self.weight, self.bias, self.mean, self.scale))


def forward(
    block: Block, x: Tensor, weight: Tensor | None, bias: Tensor | None, constants: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Affine]:
    """y [N, channels, H', W'] of contiguous maps x [N, channels, H, W], and what the other passes read.

    Args:
        block: what stands in the block.
        x: float32 or float64.
        weight, bias: of the norm [channels]; None both: one and zero.
        constants: mean and r [sets], for a norm by constants.
    """
    y = x.new_empty(block.pooled_size(x))
    mean, scale = constants if constants is not None else (None, None)
    if block.norm == "sets":
        mean, scale = x.new_empty(2, len(x), block.sets).unbind()
    affine = Affine(weight, bias, mean, scale)
    block.launch(forward_kernel, x, *affine.tensors(x), y, AFFINE=weight is not None, EPS=block.eps)
    return y, affine


def back(block: Block, x: Tensor, affine: Affine, gy: Tensor, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
    """gx, and where they are wanted gw and gb of each image [N, channels]."""
    gx = torch.empty_like(x)
    gw, gb = _of_channels(x, wanted)
    block.launch(back_kernel, x, *affine.tensors(x), gy, gx, gw, gb, AFFINE=affine.weight is not None, WANTED=wanted)
    return gx, gw, gb


@dataclass(frozen=True)
class Direction:
    """A direction among weight and bias, of each class [G, channels] with classes equally far apart; None both: zero. And what a pass
    along it leaves for the way back: x', and <x'> and <x^ x'> of each set [N, sets]."""

    weight: Tensor | None
    bias: Tensor | None
    tx: Tensor
    means: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order in which kernels take them; what is not there is not read."""
        return (self.tx, *(self.tx if value is None else value for value in (self.weight, self.bias)), *self.means.unbind())

    def tail(self, count: int) -> tuple[int, int]:
        """How far classes are apart, and how many of `count` images each has."""
        return (0, 1) if self.weight is None else (self.weight.stride(0), count // len(self.weight))


def along(block: Block, x: Tensor, affine: Affine, tx: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Direction]:
    """y' of x', and what `back_along` reads; weight and bias [G, channels] the direction of those of the norm."""
    direction = Direction(weight, bias, tx, x.new_empty(2, len(x), block.sets))
    ty = x.new_empty(block.pooled_size(x))
    arguments = (*affine.tensors(x), *direction.tensors(), ty)
    block.launch(along_kernel, x, *arguments, tail=direction.tail(len(x)), AFFINE=affine.weight is not None, TURNED=weight is not None)
    return ty, direction


def back_along(
    block: Block, x: Tensor, affine: Affine, direction: Direction, gy: Tensor, tgy: Tensor, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """gx', and where they are wanted gw' and gb' of each image [N, channels]."""
    tgx = torch.empty_like(x)
    hw, hb = _of_channels(x, wanted)
    arguments = (*affine.tensors(x), *direction.tensors(), gy, tgy, tgx, hw, hb)
    constants = {"AFFINE": affine.weight is not None, "TURNED": direction.weight is not None, "WANTED": wanted}
    block.launch(back_along_kernel, x, *arguments, tail=direction.tail(len(x)), **constants)
    return tgx, hw, hb


def _of_channels(x: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    """Two numbers for each image and channel [N, channels]; none where nobody wants them."""
    first, second = x.new_empty(2, *(x.shape[:2] if wanted else (0,))).unbind()
    return first, second
