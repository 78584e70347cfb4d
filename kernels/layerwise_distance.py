"""The layer-wise distance and its cotangent in one launch, written in Triton.

With a a row of the synthetic gradient, b the same row of the real one, s = |a| |b| + e and e = 1e-6:

    layerwise_cosine    d = sum over rows of 1 - <a, b> / s     dd/da = (<a, b> |b| / (|a| s^2)) a - (1 / s) b
    cosine              the same, with all rows of a class joined into one; 0 where there are no rows
    mse                 d = sum of (a - b)^2                    dd/da = 2 (a - b)
    l1                  d = sum of |a - b|                      dd/da = sign(a - b), 0 where they are equal

The first term of dd/da is 0 where |a| = 0, and all of it where no row lies. Sums and coefficients are float64 whatever the elements
are: the square of a float never overflows a double, so that a result that float can hold is never lost on the way. Elements of 16 bits
are rounded from float64 by way of float32.

How the work is split: one program per pair of a class and a tile of `fastdc.metrics.tiles`, C * T of them, each about as long as any
other. A program writes the cotangent of its tile and its part of the distance; the one that finishes its class last adds the parts of the
class, in an order that does not depend on who finished when. A distance is thus the same, bit for bit, in every process. For `cosine` no
coefficient is known before all parts are, so that the last program of a class writes the cotangent of the whole class: its second pass is
one program per class. `fastdc::layerwise_distance` (fastdc.metrics.operator) is the operator that compilers see; here the kernel is
launched as it is. TRITON_INTERPRET=1, set before Triton is imported, runs all of it on CPU tensors, one program after another.
"""
# ruff: noqa: N803 (constexpr arguments are in capitals, as is usual in Triton)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdc.errors import unknown_name
from fastdc.parallel.devices import is_capturing

METRICS = ("layerwise_cosine", "cosine", "mse", "l1")  # those of `fastdc.metrics.definitions` that the kernel has code for

_EPSILON = tl.constexpr(1e-6)

# One configuration for all: it decides the order within a sum, and one picked by timing would give other bits from process to process.
BLOCK = 512  # elements of a step
WARPS = 4


@triton.jit
def _store(pointer, values, mask):
    """Rounds float64 values to the elements behind `pointer`: by way of float32 if these have 16 bits, as all devices can."""
    element: tl.constexpr = pointer.dtype.element_ty
    if element.primitive_bitwidth == 16:
        tl.store(pointer, values.to(tl.float32).to(element), mask=mask)
    else:
        tl.store(pointer, values.to(element), mask=mask)


@triton.jit
def _cosine_result(dot, synthetic_square, real_square):
    """Of one row or a block of rows: the distance, and the coefficients of its cotangent along * a - across * b.

    In an order in which nothing overflows that the result does not, with as few divisions as possible: they take many registers.
    """
    norm_synthetic, norm_real = tl.sqrt(synthetic_square), tl.sqrt(real_square)
    across = 1.0 / (norm_synthetic * norm_real + _EPSILON)
    cosine = dot * across
    along = cosine * (norm_real * across) / tl.where(norm_synthetic > 0, norm_synthetic, 1.0)
    return 1.0 - cosine, tl.where(norm_synthetic > 0, along, 0.0), across


@triton.jit
def _steps(rows, row_length, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Blocks of [ROWS, COLS] that cover [rows, row_length]; rows without elements are still counted."""
    return ((rows + (ROWS - 1)) // ROWS) * tl.maximum((row_length + (COLS - 1)) // COLS, 1)


@triton.jit
def _cosine_rows(synthetic, real, cotangent, rows, row_length, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Each row of a tile on its own: writes the cotangent [rows, row_length], returns the sum of the distances.

    ROWS rows at a time, COLS columns a step. The second pass over the rows, for the cotangent, finds them in the cache.
    """
    columns = tl.arange(0, COLS)[None, :]  # [1, COLS]
    total = tl.zeros([ROWS], tl.float64)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
        inside = row < rows
        start = (row * row_length)[:, None]  # [ROWS, 1]
        dot = tl.zeros([ROWS, COLS], tl.float64)
        synthetic_square = tl.zeros([ROWS, COLS], tl.float64)
        real_square = tl.zeros([ROWS, COLS], tl.float64)
        for column in range(0, row_length, COLS):
            mask = inside[:, None] & (columns < row_length - column)
            index = start + (column + columns)
            a = tl.load(synthetic + index, mask=mask, other=0.0).to(tl.float64)
            b = tl.load(real + index, mask=mask, other=0.0).to(tl.float64)
            dot += a * b
            synthetic_square += a * a
            real_square += b * b
        distance, along, across = _cosine_result(tl.sum(dot, 1), tl.sum(synthetic_square, 1), tl.sum(real_square, 1))  # [ROWS] each
        total += tl.where(inside, distance, 0.0)
        for column in range(0, row_length, COLS):
            mask = inside[:, None] & (columns < row_length - column)
            index = start + (column + columns)
            a = tl.load(synthetic + index, mask=mask, other=0.0).to(tl.float64)
            b = tl.load(real + index, mask=mask, other=0.0).to(tl.float64)
            _store(cotangent + index, along[:, None] * a - across[:, None] * b, mask)
    return tl.sum(total, 0)


@triton.jit
def _element_result(difference, METRIC: tl.constexpr):
    """Of a - b: what an element adds to the distance, and its cotangent. As csrc/row_distance.h has it."""
    if METRIC == "mse":
        distance = difference * difference
        derivative = 2.0 * difference
    else:
        tl.static_assert(METRIC == "l1", "the kernel has no code for this metric")
        distance = tl.abs(difference)
        derivative = tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, difference))  # NaN stays
    return distance, derivative


@triton.jit
def _elements(synthetic, real, cotangent, count, METRIC: tl.constexpr, BLOCK: tl.constexpr):
    """A metric by elements of a tile, where rows do not matter: writes the cotangent [count], returns the distance."""
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, count, BLOCK):
        mask = lanes < count - first
        index = first + lanes
        a = tl.load(synthetic + index, mask=mask, other=0.0).to(tl.float64)
        b = tl.load(real + index, mask=mask, other=0.0).to(tl.float64)
        distance, derivative = _element_result(a - b, METRIC)
        total += distance
        _store(cotangent + index, derivative, mask)
    return tl.sum(total, 0)


@triton.jit
def _joined_sums(synthetic, real, parts, tile_count, count, BLOCK: tl.constexpr):
    """First pass of `cosine`: stores <a, b>, |a|^2 and |b|^2 of the `count` elements of a tile into parts [3, T], one column of it."""
    lanes = tl.arange(0, BLOCK)
    dot = tl.zeros([BLOCK], tl.float64)
    synthetic_square = tl.zeros([BLOCK], tl.float64)
    real_square = tl.zeros([BLOCK], tl.float64)
    for first in range(0, count, BLOCK):
        mask = lanes < count - first
        index = first + lanes
        a = tl.load(synthetic + index, mask=mask, other=0.0).to(tl.float64)
        b = tl.load(real + index, mask=mask, other=0.0).to(tl.float64)
        dot += a * b
        synthetic_square += a * a
        real_square += b * b
    tl.store(parts, tl.sum(dot, 0))
    tl.store(parts + tile_count, tl.sum(synthetic_square, 0))
    tl.store(parts + 2 * tile_count, tl.sum(real_square, 0))


@triton.jit
def _joined_cotangent(synthetic, real, cotangent, tiles, tile_count, along, across, BLOCK: tl.constexpr):
    """Second pass of `cosine`: along * a - across * b for all rows of a class. Stretches outside of rows are zero already."""
    lanes = tl.arange(0, BLOCK)
    for tile in range(tile_count):
        offset = tl.load(tiles + 3 * tile)
        count = tl.load(tiles + 3 * tile + 1) * tl.load(tiles + 3 * tile + 2)
        for first in range(0, count, BLOCK):
            mask = lanes < count - first
            index = offset + first + lanes
            a = tl.load(synthetic + index, mask=mask, other=0.0).to(tl.float64)
            b = tl.load(real + index, mask=mask, other=0.0).to(tl.float64)
            _store(cotangent + index, along * a - across * b, mask)


@triton.jit
def _clear(cotangent, count, BLOCK: tl.constexpr):
    """Zeros for a stretch of `count` elements that lie in no row."""
    lanes = tl.arange(0, BLOCK)
    for first in range(0, count, BLOCK):
        tl.store(cotangent + first + lanes, tl.zeros([BLOCK], cotangent.dtype.element_ty), mask=lanes < count - first)


@triton.jit
def _sum_of_parts(parts, tile_count, BLOCK: tl.constexpr):
    """Adds parts [T] in an order that only T and the configuration decide."""
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, tile_count, BLOCK):
        # volatile: other processors wrote them during this launch, and a copy cached before that must not be read
        total += tl.load(parts + first + lanes, mask=lanes < tile_count - first, other=0.0, volatile=True)
    return tl.sum(total, 0)


@triton.jit
def _any_row(tiles, tile_count, BLOCK: tl.constexpr):
    """1 where a tile has rows, else 0."""
    lanes = tl.arange(0, BLOCK)
    most = tl.zeros([BLOCK], tl.int64)
    for first in range(0, tile_count, BLOCK):
        rows = tl.load(tiles + 3 * (first + lanes) + 1, mask=lanes < tile_count - first, other=0)
        most = tl.maximum(most, rows)
    return tl.minimum(tl.max(most, 0), 1)


# Sizes are not specialized: offsets come from the table of tiles, so that knowing what divides a size would speed up nothing, and each
# layout would be compiled anew.
@triton.jit(do_not_specialize=["size", "tile_count", "synthetic_stride", "real_stride"])
def layerwise_distance_kernel(
    synthetic,
    real,
    tiles,
    distance,
    cotangent,
    parts,
    tickets,
    size,
    tile_count,
    synthetic_stride,
    real_stride,
    METRIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program c * T + t works on tile t of class c.

    Args:
        synthetic, real: gradients [C, P], of one dtype; elements of a class lie side by side.
        tiles: offset, rows and row_length of each tile, int64 [T, 3], contiguous.
        distance: float64 [C] if the gradients are float64, else float32 [C]; written.
        cotangent: [C, P], contiguous, of the gradients' dtype; written.
        parts: workspace float64 [C, 3, T]: a tile's part of the distance, or for `cosine` its part of <a, b>, |a|^2 and |b|^2.
        tickets: int32 [C], zero before and after: how many programs of a class are through.
        size: P.
        tile_count: T.
        synthetic_stride, real_stride: elements from a class to the next one.
        METRIC: one of METRICS.
        BLOCK: elements of a step, a power of two, at least 128.
    """
    program = tl.program_id(0).to(tl.int64)
    c = program // tile_count
    t = program % tile_count
    offset = tl.load(tiles + 3 * t)
    rows = tl.load(tiles + 3 * t + 1)
    row_length = tl.load(tiles + 3 * t + 2)
    synthetic += c * synthetic_stride
    real += c * real_stride
    cotangent += c * size
    parts += c * 3 * tile_count
    part = parts + t
    a = synthetic + offset
    b = real + offset
    out = cotangent + offset

    if rows == 0:
        _clear(out, row_length, BLOCK)
        tl.store(part, 0.0)
        if METRIC == "cosine":
            tl.store(part + tile_count, 0.0)
            tl.store(part + 2 * tile_count, 0.0)
    elif METRIC == "layerwise_cosine":
        # the shape that covers the tile in the fewest steps; of equals the longest rows, which memory serves best
        narrow = _steps(rows, row_length, BLOCK // 16, 16)
        middle = _steps(rows, row_length, BLOCK // 128, 128)
        wide = _steps(rows, row_length, 1, BLOCK)
        if wide <= tl.minimum(middle, narrow):
            tl.store(part, _cosine_rows(a, b, out, rows, row_length, 1, BLOCK))
        elif middle <= narrow:
            tl.store(part, _cosine_rows(a, b, out, rows, row_length, BLOCK // 128, 128))
        else:
            tl.store(part, _cosine_rows(a, b, out, rows, row_length, BLOCK // 16, 16))
    elif METRIC == "cosine":
        _joined_sums(a, b, part, tile_count, rows * row_length, BLOCK)
    else:
        tl.store(part, _elements(a, b, out, rows * row_length, METRIC, BLOCK))

    # The parts, of whichever threads stored them, come before this program's ticket, and all tickets before what the last one reads.
    tl.debug_barrier()
    ticket = tl.atomic_add(tickets + c, 1, sem="acq_rel", scope="gpu")
    if ticket == tile_count - 1:
        value = _sum_of_parts(parts, tile_count, BLOCK)
        if METRIC == "cosine":
            synthetic_square = _sum_of_parts(parts + tile_count, tile_count, BLOCK)
            real_square = _sum_of_parts(parts + 2 * tile_count, tile_count, BLOCK)
            value, along, across = _cosine_result(value, synthetic_square, real_square)
            _joined_cotangent(synthetic, real, cotangent, tiles, tile_count, along, across, BLOCK)
            value = tl.where(_any_row(tiles, tile_count, BLOCK) > 0, value, 0.0)
        tl.store(distance + c, value.to(distance.dtype.element_ty))
        tl.store(tickets + c, 0)  # for the next launch


_tickets: dict[tuple[torch.device, int], Tensor] = {}


def _zeroed_tickets(like: Tensor) -> Tensor:
    """Tickets int32 [at least C], all zero; `like` [C, P] is a tensor of this call.

    A launch leaves its tickets at zero, so that the next one on the same stream can use them again without a launch to clear them. Two
    streams run side by side and must not share theirs: the buffers are kept by stream. What is captured into a CUDA graph runs later and
    anywhere, so that it gets tickets of its own, cleared each time.
    """
    count = like.shape[0]
    if is_capturing(like.device):
        return like.new_zeros(count, dtype=torch.int32)
    key = (like.device, torch.cuda.current_stream(like.device).cuda_stream if like.is_cuda else 0)
    kept = _tickets.get(key)
    if kept is None or len(kept) < count:
        kept = _tickets[key] = like.new_zeros(count, dtype=torch.int32)
    return kept


def layerwise_distance(synthetic: Tensor, real: Tensor, tiles: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """The distance of every class's synthetic gradient from its real one, and the derivative by the synthetic one, in one launch.

    Args:
        synthetic: [C, P], float32, float64, float16 or bfloat16; elements of a class lie side by side, classes anywhere.
        real: [C, P], of the same dtype and device.
        tiles: int64 [T, 3] of `fastdc.metrics.tiles.tiles_of`, on the same device, which is the current one.
        metric: one of METRICS.

    Returns:
        The distance [C], float64 if the gradients are and else float32, and its cotangent [C, P].

    Raises:
        UsageError: a metric that the kernel has no code for.
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    classes, size = synthetic.shape
    tile_count = tiles.shape[0]
    distance = synthetic.new_empty(classes, dtype=torch.promote_types(synthetic.dtype, torch.float32))
    cotangent = synthetic.new_empty(synthetic.shape)
    if classes * tile_count == 0:
        return distance.zero_(), cotangent  # without tiles, the cotangent has no elements
    layerwise_distance_kernel[(classes * tile_count,)](
        synthetic,
        real,
        tiles,
        distance,
        cotangent,
        synthetic.new_empty((classes, 3, tile_count), dtype=torch.float64),
        _zeroed_tickets(cotangent),
        size,
        tile_count,
        synthetic.stride(0),
        real.stride(0),
        METRIC=metric,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return distance, cotangent
