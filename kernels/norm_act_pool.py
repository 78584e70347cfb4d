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

How the work is split: one program for several sets of numbers, each a map of an image for instance norm, a group of maps for group norm.
It goes over maps in steps of BLOCK numbers, window by window: a tile [R, W, E] of R sets, W windows and their E numbers. Where a map is
smaller than a step a program has more sets, the last one perhaps fewer. It goes over its sets as often as sums must be known before what
depends on them. Sizes of maps are known to the compiler: where a step covers a whole set, the loops over channels and steps have one turn,
and what they read alike is read once, as long as nothing is written between them. So what is written for each set is written last. Nothing
of the size of a map is kept but x: x^, z and the places of the largest are computed again. Sums are in the dtype of the maps, in an order
that the sizes alone decide. TRITON_INTERPRET=1, set before Triton is imported, runs all of it on CPU tensors.
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

BLOCK = 1024  # numbers of a step: a map of 32x32, or four of 16x16
WARPS = 2


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
def _sets(total, ROWS: tl.constexpr):
    """The numbers of the sets of a program [R, 1, 1], and whether there are so many."""
    number = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None, None]
    return number, number < total


@triton.jit
def _first_map(CHANNELS: tl.constexpr, ROWS: tl.constexpr):
    """How many maps lie before those of a program: in 64 bits, where places within a program's maps need 32."""
    return tl.program_id(0).to(tl.int64) * (ROWS * CHANNELS)


@triton.jit
def _places(
    channel, step, total,
    CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, SIDE: tl.constexpr, ROWS: tl.constexpr, WINDOWS: tl.constexpr,
):  # fmt: skip
    """Where the numbers of a step lie in the maps of a program, window by window [R, W, E], and whether they are there; where their windows
    lie in the pooled maps [R, W, 1], and whether they do: at an edge what fills no window is left out of the pooling."""
    _, there = _sets(total, ROWS)
    across: tl.constexpr = (WIDTH + SIDE - 1) // SIDE
    down: tl.constexpr = (HEIGHT + SIDE - 1) // SIDE
    place = tl.arange(0, ROWS)[:, None, None] * CHANNELS + channel  # of a map
    window = (step * WINDOWS + tl.arange(0, WINDOWS))[None, :, None]
    element = tl.arange(0, SIDE * SIDE)[None, None, :]
    row = window // across * SIDE + element // SIDE
    column = window % across * SIDE + element % SIDE
    there = there & (window < across * down)
    inside = there & (row < HEIGHT) & (column < WIDTH)
    pooled = place * ((HEIGHT // SIDE) * (WIDTH // SIDE)) + window // across * (WIDTH // SIDE) + window % across
    whole = there & (window // across < HEIGHT // SIDE) & (window % across < WIDTH // SIDE)
    return place * (HEIGHT * WIDTH) + row * WIDTH + column, inside, pooled, whole


@triton.jit
def _total(values):
    """Sums of each set [R, 1, 1] of numbers [R, W, E]."""
    return tl.sum(tl.sum(values, 2, keep_dims=True), 1, keep_dims=True)


@triton.jit
def _pooled(values, chosen, POOLING: tl.constexpr):
    """P of windows [R, W, E]: [R, W, 1]."""
    if POOLING == "max":
        values = tl.where(chosen, values, 0.0)
    result = tl.sum(values, 2, keep_dims=True)
    if POOLING == "avg":
        result *= 0.25
    return result


@triton.jit
def _chosen(values, POOLING: tl.constexpr):
    """Which number of each window is the largest, the first of several [R, W, E]."""
    if POOLING == "max":
        places = tl.arange(0, 4)[None, None, :]
        result = places == tl.argmax(values, 2, tie_break_left=True, keep_dims=True)
    else:
        result = tl.full(values.shape, 1, tl.int1)
    return result


@triton.jit
def _spread(pooled, chosen, POOLING: tl.constexpr):
    """P^T of numbers [R, W, 1], as windows [R, W, E]."""
    share = 0.25 if POOLING == "avg" else 1.0
    return tl.where(chosen, pooled * share, 0.0)


@triton.jit
def _normal(x, index, inside, mean, scale):
    """x^ of the numbers at `index`, zero outside."""
    values = tl.load(x + index, mask=inside, other=0.0)
    return tl.where(inside, (values - mean) * scale, 0.0)


@triton.jit
def _channel(pointer, channel, there, GIVEN: tl.constexpr, neutral):
    """A number of a channel of each set [R, 1, 1]; `neutral` where there are none."""
    return tl.load(pointer + channel, mask=there, other=0.0) if GIVEN else neutral


@triton.jit
def _kept(mean, scale, total, sets, kind: tl.constexpr, NORM: tl.constexpr, ROWS: tl.constexpr):
    """Mean and r of the sets of a program [R, 1, 1], which the forward pass has written or which are constants."""
    number, there = _sets(total, ROWS)
    if NORM == "none":
        m = tl.zeros([ROWS, 1, 1], kind)
        r = m + 1.0
    else:
        place = number % sets if NORM == "constants" else number
        m = tl.load(mean + place, mask=there, other=0.0)
        r = tl.load(scale + place, mask=there, other=0.0)
    return m, r


@triton.jit(do_not_specialize=["total", "sets"])
def forward_kernel(
    x, weight, bias, mean, scale, y, total, sets,
    EPS: tl.constexpr, SLOPE: tl.constexpr,
    NORM: tl.constexpr, AFFINE: tl.constexpr, ACTIVATION: tl.constexpr, POOLING: tl.constexpr, SIDE: tl.constexpr,
    CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, WINDOWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """y of some sets; with NORM "sets" mean and r are written, with "constants" they are read, with "none" they are 0 and 1.

    Args:
        x: maps [N, sets * CHANNELS, HEIGHT, WIDTH], contiguous.
        weight, bias: of each channel [sets * CHANNELS], where AFFINE says so.
        mean, scale: [N, sets], or of constants [sets].
        y: pooled maps, written.
        total: N * sets.
        CHANNELS, HEIGHT, WIDTH: of a set.
        ROWS, WINDOWS, STEPS: sets of a program, windows of a step, steps of a map.
    """
    kind: tl.constexpr = x.dtype.element_ty
    number, there = _sets(total, ROWS)
    first = (number % sets) * CHANNELS
    start = _first_map(CHANNELS, ROWS)
    x += start * (HEIGHT * WIDTH)
    y += start * ((HEIGHT // SIDE) * (WIDTH // SIDE))
    if NORM == "sets":
        count: tl.constexpr = CHANNELS * HEIGHT * WIDTH
        sum_x = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
        for channel in range(CHANNELS):
            for step in range(STEPS):
                index, inside, _, _ = _places(channel, step, total, CHANNELS, HEIGHT, WIDTH, SIDE, ROWS, WINDOWS)
                sum_x += tl.load(x + index, mask=inside, other=0.0)
        m = _total(sum_x) / count
        squares = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
        for channel in range(CHANNELS):
            for step in range(STEPS):
                index, inside, _, _ = _places(channel, step, total, CHANNELS, HEIGHT, WIDTH, SIDE, ROWS, WINDOWS)
                centred = _normal(x, index, inside, m, 1.0)
                squares += centred * centred
        r = 1.0 / tl.sqrt(_total(squares) / count + EPS)
    else:
        m, r = _kept(mean, scale, total, sets, kind, NORM, ROWS)
    for channel in range(CHANNELS):
        w = _channel(weight, first + channel, there, AFFINE, 1.0)
        b = _channel(bias, first + channel, there, AFFINE, 0.0)
        for step in range(STEPS):
            index, inside, pooled, whole = _places(channel, step, total, CHANNELS, HEIGHT, WIDTH, SIDE, ROWS, WINDOWS)
            value, _, _ = _activated(w * _normal(x, index, inside, m, r) + b, SLOPE, ACTIVATION)
            tl.store(y + pooled, _pooled(value, _chosen(value, POOLING), POOLING).to(kind), mask=whole)
    if NORM == "sets":
        tl.store(mean + number, m.to(kind), mask=there)
        tl.store(scale + number, r.to(kind), mask=there)


@triton.jit
def _back(
    x, gy, index, inside, pooled, whole, m, r, w, b,
    SLOPE: tl.constexpr, ACTIVATION: tl.constexpr, POOLING: tl.constexpr,
):  # fmt: skip
    """x^ and gz of the numbers at `index`."""
    normal = _normal(x, index, inside, m, r)
    value, slope_at, _ = _activated(w * normal + b, SLOPE, ACTIVATION)
    g = tl.load(gy + pooled, mask=whole, other=0.0)
    return normal, slope_at * _spread(g, _chosen(value, POOLING), POOLING)


@triton.jit(do_not_specialize=["total", "sets"])
def back_kernel(
    x, weight, bias, mean, scale, gy, gx, gw, gb, total, sets,
    SLOPE: tl.constexpr,
    NORM: tl.constexpr, AFFINE: tl.constexpr, ACTIVATION: tl.constexpr, POOLING: tl.constexpr, WANTED: tl.constexpr, SIDE: tl.constexpr,
    CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, WINDOWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """gx of some sets; where WANTED says so gw and gb of their channels [N, sets * CHANNELS]. The rest as `forward_kernel` has it."""
    kind: tl.constexpr = x.dtype.element_ty
    number, there = _sets(total, ROWS)
    first = (number % sets) * CHANNELS
    start = _first_map(CHANNELS, ROWS)
    x += start * (HEIGHT * WIDTH)
    gx += start * (HEIGHT * WIDTH)
    gy += start * ((HEIGHT // SIDE) * (WIDTH // SIDE))
    m, r = _kept(mean, scale, total, sets, kind, NORM, ROWS)
    mean_u = tl.zeros([ROWS, 1, 1], kind)
    mean_xu = tl.zeros([ROWS, 1, 1], kind)
    if NORM == "sets":
        for channel in range(CHANNELS):
            w = _channel(weight, first + channel, there, AFFINE, 1.0)
            b = _channel(bias, first + channel, there, AFFINE, 0.0)
            sum_gz = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
            sum_xgz = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
            for step in range(STEPS):
                index, inside, pooled, whole = _places(channel, step, total, CHANNELS, HEIGHT, WIDTH, SIDE, ROWS, WINDOWS)
                normal, gz = _back(x, gy, index, inside, pooled, whole, m, r, w, b, SLOPE, ACTIVATION, POOLING)
                sum_gz += gz
                sum_xgz += normal * gz
            mean_u += w * _total(sum_gz)
            mean_xu += w * _total(sum_xgz)
        count: tl.constexpr = CHANNELS * HEIGHT * WIDTH
        mean_u = mean_u / count
        mean_xu = mean_xu / count
    for channel in range(CHANNELS):
        w = _channel(weight, first + channel, there, AFFINE, 1.0)
        b = _channel(bias, first + channel, there, AFFINE, 0.0)
        sum_gz = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
        sum_xgz = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
        for step in range(STEPS):
            index, inside, pooled, whole = _places(channel, step, total, CHANNELS, HEIGHT, WIDTH, SIDE, ROWS, WINDOWS)
            normal, gz = _back(x, gy, index, inside, pooled, whole, m, r, w, b, SLOPE, ACTIVATION, POOLING)
            u = w * gz
            if NORM == "sets":
                u = u - mean_u - normal * mean_xu
            tl.store(gx + index, (r * u).to(kind), mask=inside)
            if WANTED:
                sum_gz += gz
                sum_xgz += normal * gz
        if WANTED:
            place = start + tl.arange(0, ROWS)[:, None, None] * CHANNELS + channel
            tl.store(gb + place, _total(sum_gz).to(kind), mask=there)
            tl.store(gw + place, _total(sum_xgz).to(kind), mask=there)


@triton.jit
def _along(x, tx, index, inside, m, r, mean_tx, mean_xtx, NORM: tl.constexpr):
    """x^ and x^' of the numbers at `index`, zero outside."""
    normal = _normal(x, index, inside, m, r)
    t = tl.load(tx + index, mask=inside, other=0.0)
    if NORM == "sets":
        t = tl.where(inside, t - mean_tx - normal * mean_xtx, 0.0)
    return normal, r * t


@triton.jit(do_not_specialize=["total", "sets", "direction_stride", "each"])
def along_kernel(
    x, weight, bias, mean, scale, tx, tw, tb, tmean, tdot, ty, total, sets, direction_stride, each,
    SLOPE: tl.constexpr,
    NORM: tl.constexpr, AFFINE: tl.constexpr, ACTIVATION: tl.constexpr, POOLING: tl.constexpr, TURNED: tl.constexpr, SIDE: tl.constexpr,
    CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, WINDOWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """ty of some sets, and <x'> and <x^ x'> [N, sets] of them; the rest as `forward_kernel` has it.

    Args:
        tx: x' [N, sets * CHANNELS, HEIGHT, WIDTH].
        tw, tb: w' and b' of each class, where TURNED says so: [G, sets * CHANNELS], classes `direction_stride` numbers apart.
        each: images of a class.
    """
    kind: tl.constexpr = x.dtype.element_ty
    number, there = _sets(total, ROWS)
    first = (number % sets) * CHANNELS
    turned = ((number // sets) // each).to(tl.int64) * direction_stride + first
    start = _first_map(CHANNELS, ROWS)
    x += start * (HEIGHT * WIDTH)
    tx += start * (HEIGHT * WIDTH)
    ty += start * ((HEIGHT // SIDE) * (WIDTH // SIDE))
    m, r = _kept(mean, scale, total, sets, kind, NORM, ROWS)
    mean_tx = tl.zeros([ROWS, 1, 1], kind)
    mean_xtx = tl.zeros([ROWS, 1, 1], kind)
    if NORM == "sets":
        sum_tx = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
        sum_xtx = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
        for channel in range(CHANNELS):
            for step in range(STEPS):
                index, inside, _, _ = _places(channel, step, total, CHANNELS, HEIGHT, WIDTH, SIDE, ROWS, WINDOWS)
                t = tl.load(tx + index, mask=inside, other=0.0)
                sum_tx += t
                sum_xtx += t * _normal(x, index, inside, m, r)
        count: tl.constexpr = CHANNELS * HEIGHT * WIDTH
        mean_tx = _total(sum_tx) / count
        mean_xtx = _total(sum_xtx) / count
    for channel in range(CHANNELS):
        w = _channel(weight, first + channel, there, AFFINE, 1.0)
        b = _channel(bias, first + channel, there, AFFINE, 0.0)
        w_along = _channel(tw, turned + channel, there, TURNED, 0.0)
        b_along = _channel(tb, turned + channel, there, TURNED, 0.0)
        for step in range(STEPS):
            index, inside, pooled, whole = _places(channel, step, total, CHANNELS, HEIGHT, WIDTH, SIDE, ROWS, WINDOWS)
            normal, tnormal = _along(x, tx, index, inside, m, r, mean_tx, mean_xtx, NORM)
            value, slope_at, _ = _activated(w * normal + b, SLOPE, ACTIVATION)
            tz = w * tnormal + w_along * normal + b_along
            tl.store(ty + pooled, _pooled(slope_at * tz, _chosen(value, POOLING), POOLING).to(kind), mask=whole)
    if NORM == "sets":
        tl.store(tmean + number, mean_tx.to(kind), mask=there)
        tl.store(tdot + number, mean_xtx.to(kind), mask=there)


@triton.jit
def _back_along(
    x, tx, gy, tgy, index, inside, pooled, whole, m, r, mean_tx, mean_xtx, w, b, w_along, b_along,
    SLOPE: tl.constexpr, NORM: tl.constexpr, ACTIVATION: tl.constexpr, POOLING: tl.constexpr,
):  # fmt: skip
    """x^, x^', gz and gz' of the numbers at `index`."""
    normal, tnormal = _along(x, tx, index, inside, m, r, mean_tx, mean_xtx, NORM)
    value, slope_at, bend = _activated(w * normal + b, SLOPE, ACTIVATION)
    chosen = _chosen(value, POOLING)
    g = _spread(tl.load(gy + pooled, mask=whole, other=0.0), chosen, POOLING)
    tg = _spread(tl.load(tgy + pooled, mask=whole, other=0.0), chosen, POOLING)
    return normal, tnormal, slope_at * g, slope_at * tg + bend * (w * tnormal + w_along * normal + b_along) * g


@triton.jit(do_not_specialize=["total", "sets", "direction_stride", "each"])
def back_along_kernel(
    x, weight, bias, mean, scale, tx, tw, tb, tmean, tdot, gy, tgy, tgx, hw, hb,
    total, sets, direction_stride, each,
    SLOPE: tl.constexpr,
    NORM: tl.constexpr, AFFINE: tl.constexpr, ACTIVATION: tl.constexpr, POOLING: tl.constexpr, TURNED: tl.constexpr, WANTED: tl.constexpr,
    SIDE: tl.constexpr,
    CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, WINDOWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """gx' of some sets; where WANTED says so gw' and gb' of their channels in hw and hb. The rest as the other kernels have it."""
    kind: tl.constexpr = x.dtype.element_ty
    number, there = _sets(total, ROWS)
    first = (number % sets) * CHANNELS
    turned = ((number // sets) // each).to(tl.int64) * direction_stride + first
    start = _first_map(CHANNELS, ROWS)
    x += start * (HEIGHT * WIDTH)
    tx += start * (HEIGHT * WIDTH)
    tgx += start * (HEIGHT * WIDTH)
    gy += start * ((HEIGHT // SIDE) * (WIDTH // SIDE))
    tgy += start * ((HEIGHT // SIDE) * (WIDTH // SIDE))
    m, r = _kept(mean, scale, total, sets, kind, NORM, ROWS)
    mean_tx, mean_xtx = _kept(tmean, tdot, total, sets, kind, "sets" if NORM == "sets" else "none", ROWS)
    mean_u = tl.zeros([ROWS, 1, 1], kind)
    mean_xu = tl.zeros([ROWS, 1, 1], kind)
    mean_tu = tl.zeros([ROWS, 1, 1], kind)
    mean_xtu = tl.zeros([ROWS, 1, 1], kind)
    mean_txu = tl.zeros([ROWS, 1, 1], kind)
    if NORM == "sets":
        for channel in range(CHANNELS):
            w = _channel(weight, first + channel, there, AFFINE, 1.0)
            b = _channel(bias, first + channel, there, AFFINE, 0.0)
            w_along = _channel(tw, turned + channel, there, TURNED, 0.0)
            b_along = _channel(tb, turned + channel, there, TURNED, 0.0)
            sum_gz = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
            sum_xgz = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
            sum_tgz = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
            sum_xtgz = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
            sum_txgz = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
            for step in range(STEPS):
                index, inside, pooled, whole = _places(channel, step, total, CHANNELS, HEIGHT, WIDTH, SIDE, ROWS, WINDOWS)
                normal, tnormal, gz, tgz = _back_along(
                    x, tx, gy, tgy, index, inside, pooled, whole, m, r, mean_tx, mean_xtx, w, b, w_along, b_along,
                    SLOPE, NORM, ACTIVATION, POOLING,
                )  # fmt: skip
                sum_gz += gz
                sum_xgz += normal * gz
                sum_tgz += tgz
                sum_xtgz += normal * tgz
                sum_txgz += tnormal * gz
            of_gz = _total(sum_gz)
            of_xgz = _total(sum_xgz)
            mean_u += w * of_gz
            mean_xu += w * of_xgz
            mean_tu += w * _total(sum_tgz) + w_along * of_gz
            mean_xtu += w * _total(sum_xtgz) + w_along * of_xgz
            mean_txu += w * _total(sum_txgz)
        count: tl.constexpr = CHANNELS * HEIGHT * WIDTH
        mean_u = mean_u / count
        mean_xu = mean_xu / count
        mean_tu = mean_tu / count
        mean_xtu = mean_xtu / count
        mean_txu = mean_txu / count
    for channel in range(CHANNELS):
        w = _channel(weight, first + channel, there, AFFINE, 1.0)
        b = _channel(bias, first + channel, there, AFFINE, 0.0)
        w_along = _channel(tw, turned + channel, there, TURNED, 0.0)
        b_along = _channel(tb, turned + channel, there, TURNED, 0.0)
        sum_tgz = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
        sum_xtgz = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
        sum_txgz = tl.zeros([ROWS, WINDOWS, SIDE * SIDE], kind)
        for step in range(STEPS):
            index, inside, pooled, whole = _places(channel, step, total, CHANNELS, HEIGHT, WIDTH, SIDE, ROWS, WINDOWS)
            normal, tnormal, gz, tgz = _back_along(
                x, tx, gy, tgy, index, inside, pooled, whole, m, r, mean_tx, mean_xtx, w, b, w_along, b_along,
                SLOPE, NORM, ACTIVATION, POOLING,
            )  # fmt: skip
            result = w * tgz + w_along * gz
            if NORM == "sets":
                derived = w * gz - mean_u - normal * mean_xu
                result = result - mean_tu - normal * mean_xtu - r * mean_xtx * derived - tnormal * mean_xu - normal * mean_txu
            tl.store(tgx + index, (r * result).to(kind), mask=inside)
            if WANTED:
                sum_tgz += tgz
                sum_xtgz += normal * tgz
                sum_txgz += tnormal * gz
        if WANTED:
            place = start + tl.arange(0, ROWS)[:, None, None] * CHANNELS + channel
            tl.store(hb + place, _total(sum_tgz).to(kind), mask=there)
            tl.store(hw + place, (_total(sum_xtgz) + _total(sum_txgz)).to(kind), mask=there)


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

    def tile(self, channels: int, height: int, width: int) -> dict[str, int]:
        """How a program goes over sets of so many such maps: how many at once, in steps of how many windows, and in how many steps."""
        windows, numbers = -(-height // self.side) * -(-width // self.side), self.side**2  # of a window
        fitting = min(BLOCK // numbers, triton.next_power_of_2(windows))
        rows = BLOCK // (fitting * numbers) if channels == 1 else 1  # of many maps there is enough to do in a set
        return {"HEIGHT": height, "WIDTH": width, "ROWS": rows, "WINDOWS": fitting, "STEPS": -(-windows // fitting), "CHANNELS": channels}

    def launch(self, kernel: Any, x: Tensor, *arguments: Any, **constants: Any) -> None:
        """Launch a kernel for maps x; how many sets there are follows its tensors, and then comes `tail`."""
        tail = constants.pop("tail", ())
        count, channels, height, width = x.shape
        given = {"NORM": self.norm, "ACTIVATION": self.activation, "SLOPE": self.slope, "POOLING": self.pooling, "SIDE": self.side}
        given |= self.tile(channels // self.sets, height, width)
        total = count * self.sets
        programs = triton.cdiv(total, given["ROWS"])
        launch(kernel, programs, x, *arguments, total, self.sets, *tail, **given, **constants, num_warps=WARPS)


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
