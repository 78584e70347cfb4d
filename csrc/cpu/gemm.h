// Products of small matrices: C (+)= A B with C [rows, n], A [rows, k], B [k, n], all walked by one register-blocked
// micro-kernel that keeps a block of C, kRowsMax x (kPanelVectors * kWide) elements, in registers over the whole of k.
//
//   B   packed into panels of kPanel = kPanelVectors * kWide columns: panel p holds columns p * kPanel ..., all rows of
//       B one after the other, [k][width], where width = kPanel but for the last panel, whose width is rounded up to
//       whole registers only (the padding is zero). Panel p therefore starts at p * kPanel * k, and the whole takes
//       k * padded_columns(n) elements.
//   A   read in place, one element at a time (broadcast): either as it is (A[i][p] at a + i * stride + p) or transposed
//       (A[i][p] at a + p * stride + i), so neither the product of the tiles nor the reduction over tiles copies it.
//   C   rows of n elements, n a multiple of 8, written or added to in place.
//
// Where products are rounded (operands.h) the rows of packed B are those of pairs, [k / 2][width], and A is rounded
// into a buffer on the stack, a block at a time.
//
// Every element of C is a sum over p in order, in blocks of kShortSum added one after the other, whatever the number of
// rows is and however they are cut: no row of C depends on the other rows. Short sums halve the error in float: with
// 128 terms in a row, Winograd's outputs are 8e-7 from exact ones, against 5e-7 in blocks of 32 and 4e-7 by direct
// convolution.
#pragma once

#include <cstdint>

#include "operands.h"
#include "vector.h"

namespace fastdc {
namespace {

// Registers: 32 in AVX-512 and NEON, 16 elsewhere. Each row takes kPanelVectors accumulators; the registers left over
// hold one row of the panel, the broadcast element and, without fused multiply-add, a product.
#if defined(__AVX512F__)
constexpr int kRowsMax = 14;
#elif defined(__aarch64__)
constexpr int kRowsMax = 10;
#else
constexpr int kRowsMax = 6;
#endif
constexpr int kPanelVectors = 2;

template <class T>
constexpr int kPanel = kPanelVectors * kWide<T>;

// Terms between two updates of C.
constexpr int64_t kShortSum = 16;
// The same, in multiples of kShortSum, between two visits of C: one panel of that depth and the rows it meets stay in
// the first cache.
constexpr int64_t kDepth = 256;
// The same where B must be packed on the way, into a buffer on the stack.
constexpr int64_t kPackedDepth = 128;

// Columns of packed B: whole registers.
template <class T>
constexpr int64_t padded_columns(int64_t n) {
    return (n + kWide<T> - 1) / kWide<T> * kWide<T>;
}

// Distance between rows of that many columns that are also read across: a multiple of 512 bytes would crowd a column
// into 8 or fewer of the 64 sets of a first-level cache, so such rows get one more cache line.
template <class T>
constexpr int64_t padded_stride(int64_t columns) {
    return columns * static_cast<int64_t>(sizeof(T)) % 512 == 0 ? columns + 64 / static_cast<int64_t>(sizeof(T))
                                                                : columns;
}

// Rows of a matrix, `stride` elements apart.
template <class T>
struct Rows {
    T* at;
    int64_t stride;

    FASTDC_INLINE Rows from(int64_t row, int64_t column) const { return {at + row * stride + column, stride}; }
};

// How A is read.
enum class Reading { kAsItIs, kTransposed };

// Asks for elements that will be read soon.
template <class T>
FASTDC_INLINE void fetch(const T* from, int64_t count) {
    for (int64_t at = 0; at < count; at += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(from + at, 0, 2);
}

// C (+)= sum for one block; columns <= vectors * kWide.
template <class T, int rows, int vectors>
FASTDC_INLINE void put_block(const Wide<T> (*sum)[vectors], Rows<T> c, int64_t columns, Write write) {
    constexpr int lanes = kWide<T>;
    // Only registers wider than 8 elements can hold a partial last column block, and then exactly half of it.
    const bool half = lanes > 8 && columns < vectors * lanes;
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
        T* to = c.at + i * c.stride;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            if (v == vectors - 1 && half) {
                typedef typename VectorOf<T, (lanes > 8 ? lanes / 2 : lanes)>::type Half;
                Half value;
                std::memcpy(&value, &sum[i][v], sizeof value);
                if (write == Write::kAdd) value += load<Half>(to + v * lanes);
                store(to + v * lanes, value);
            } else {
                Wide<T> value = sum[i][v];
                if (write == Write::kAdd) value += load<Wide<T>>(to + v * lanes);
                store(to + v * lanes, value);
            }
        }
    }
}

// The micro-kernel: C[0..rows)[0..columns) (+)= A B for one block of rows and one panel, width = vectors * kWide.
template <class T, int rows, int vectors, Reading reading>
__attribute__((noinline)) void micro_kernel(int64_t k, Rows<const T> a, const T* b, Rows<T> c, int64_t columns,
                                            Write write) {
    constexpr int lanes = kWide<T>;
    constexpr bool transposed = reading == Reading::kTransposed;
    if (write == Write::kAdd) {
        for (int i = 0; i < rows; ++i) fetch(c.at + i * c.stride, columns);
    }
    for (int64_t begin = 0; begin < k; begin += kShortSum) {
        Wide<T> sum[rows][vectors] = {};
        const T* end = b + (k - begin < kShortSum ? k - begin : kShortSum) * vectors * lanes;
        for (; b != end; b += vectors * lanes) {
            Wide<T> row[vectors];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) row[v] = load<Wide<T>>(b + v * lanes);
#pragma GCC unroll 16
            for (int i = 0; i < rows; ++i) {
                const T element = transposed ? a.at[i] : a.at[i * a.stride];
#pragma GCC unroll 4
                for (int v = 0; v < vectors; ++v) add_product(element, row[v], sum[i][v]);
            }
            a.at += transposed ? a.stride : 1;
        }
        put_block<T, rows, vectors>(sum, c, columns, begin > 0 ? Write::kAdd : write);
    }
}

// Picks the micro-kernel of a block by its number of rows, 1..kRowsMax.
template <class T, int vectors, Reading reading, int candidate = kRowsMax>
FASTDC_INLINE void multiply_block(int64_t rows, int64_t k, Rows<const T> a, const T* b, Rows<T> c, int64_t columns,
                                  Write write) {
    if constexpr (candidate > 1) {
        if (rows != candidate) {
            multiply_block<T, vectors, reading, candidate - 1>(rows, k, a, b, c, columns, write);
            return;
        }
    }
    micro_kernel<T, candidate, vectors, reading>(k, a, b, c, columns, write);
}

// Height of the next of `blocks` blocks of nearly the same height that `rows` are left for: a short last block would
// leave the multipliers waiting for one another.
FASTDC_INLINE int64_t next_height(int64_t rows, int64_t blocks) {
    return (rows + blocks - 1) / blocks;
}
FASTDC_INLINE int64_t blocks_of(int64_t rows) {
    return (rows + kRowsMax - 1) / kRowsMax;
}

// C (+)= A B for one packed panel and one block of rows.
template <Reading reading, class T>
FASTDC_INLINE void multiply_panel(int64_t rows, int64_t k, Rows<const T> a, const T* b, Rows<T> c, int64_t columns,
                                  Write write) {
    if (columns > kWide<T>) {
        multiply_block<T, 2, reading>(rows, k, a, b, c, columns, write);
    } else {
        multiply_block<T, 1, reading>(rows, k, a, b, c, columns, write);
    }
}

// A block of A, at most [kRowsMax, kDepth], as the micro-kernel reads it: where it lies or, if products are rounded, in
// `room`; k is a multiple of 8 then.
template <class T>
FASTDC_INLINE Rows<const T> made_ready([[maybe_unused]] int64_t rows, [[maybe_unused]] int64_t k, Rows<const T> a,
                                       [[maybe_unused]] T* room) {
    if constexpr (kRounded<T>) {
        constexpr int64_t stride = elements_of<T>(kDepth);
        for (int64_t i = 0; i < rows; ++i) {
            for (int64_t p = 0; p < k; p += 8) {
                store_pairs(room + i * stride + elements_of<T>(p), load<Lanes<T>>(a.from(i, p).at));
            }
        }
        return {room, stride};
    } else {
        return a;
    }
}

// C [rows, n] (+)= A [rows, k] B with B packed as above.
// A block of rows meets all panels while it is in the first cache, and meanwhile the next block is fetched.
template <class T>
void multiply_packed(int64_t rows, int64_t k, int64_t n, Rows<const T> a, const T* packed, Rows<T> c, Write write) {
    alignas(64) T room[kRounded<T> ? kRowsMax * elements_of<T>(kDepth) : 1];
    for (int64_t depth = 0; depth < k; depth += kDepth) {
        const int64_t length = k - depth < kDepth ? k - depth : kDepth;
        int64_t first = 0;
        for (int64_t blocks = blocks_of(rows); blocks > 0; --blocks) {
            const int64_t height = next_height(rows - first, blocks);
            int64_t fetched = first + height;
            const Rows<const T> block = made_ready(height, length, a.from(first, depth), room);
            const int64_t ahead = blocks > 1 ? fetched + next_height(rows - fetched, blocks - 1) : fetched;
            for (int64_t column = 0; column < n; column += kPanel<T>) {
                const int64_t columns = n - column < kPanel<T> ? n - column : kPanel<T>;
                for (const int64_t until = first + height + (ahead - first - height) * (column + columns) / n;
                     fetched < until; ++fetched) {
                    fetch(a.from(fetched, depth).at, length);
                }
                const T* panel =
                    packed + column * elements_of<T>(k) + elements_of<T>(depth) * padded_columns<T>(columns);
                multiply_panel<Reading::kAsItIs>(height, elements_of<T>(length), block, panel, c.from(first, column),
                                                 columns, depth > 0 ? Write::kAdd : write);
            }
            first += height;
        }
    }
}

// Rows of a matrix [rows, columns], columns a multiple of 8, as elements [elements_of(rows)][width]; the columns that
// it lacks are zero.
template <class T>
FASTDC_INLINE void pack_rows(int64_t rows, int64_t columns, Rows<const T> from, int64_t width, T* to) {
    for (int64_t p = 0; p < rows; p += kTerms<T>, to += width) {
        const T* row = from.from(p, 0).at;
        int64_t j = 0;
        for (; j + kWide<T> <= columns; j += kWide<T>) {
            store(to + j, element_of_rows<Wide<T>>(row + j, from.stride, rows - p));
        }
        for (; j < columns; j += kLanes<T>) {
            store(to + j, element_of_rows<Lanes<T>>(row + j, from.stride, rows - p));
        }
        for (; j < width; j += kLanes<T>) store(to + j, Lanes<T>{});
    }
}

// Columns of a transposed A that are rounded together, a multiple of 8.
template <class T>
constexpr int64_t kRoundedColumns = kRounded<T> ? 144 : INT64_MAX;

// C [k, n] += A^T B with A [rows, k], B [rows, n]: the sum runs over the rows, at least one, in blocks of
// kPackedDepth. B is packed here, panel by panel, on the stack. A is read across its rows, again for each panel: their
// distance should not be a multiple of 512 bytes, see padded_stride. Where products are rounded it is packed as well; k
// is a multiple of 8 then.
template <class T>
void multiply_transposed(int64_t rows, int64_t k, int64_t n, Rows<const T> a, Rows<const T> b, Rows<T> c) {
    constexpr int64_t deep = elements_of<T>(kPackedDepth);
    alignas(64) T panel[deep * kPanel<T>];
    alignas(64) T room[kRounded<T> ? deep * kRoundedColumns<T> : 1];
    for (int64_t depth = 0; depth < rows; depth += kPackedDepth) {
        const int64_t length = rows - depth < kPackedDepth ? rows - depth : kPackedDepth;
        for (int64_t left = 0; left < k; left += kRoundedColumns<T>) {
            const int64_t wide = k - left < kRoundedColumns<T> ? k - left : kRoundedColumns<T>;
            Rows<const T> block = a.from(depth, left);
            if constexpr (kRounded<T>) {
                pack_rows<T>(length, wide, block, wide, room);
                block = {room, wide};
            }
            for (int64_t column = 0; column < n; column += kPanel<T>) {
                const int64_t columns = n - column < kPanel<T> ? n - column : kPanel<T>;
                pack_rows<T>(length, columns, b.from(depth, column), padded_columns<T>(columns), panel);
                int64_t first = 0;
                for (int64_t blocks = blocks_of(wide); blocks > 0; --blocks) {
                    const int64_t height = next_height(wide - first, blocks);
                    multiply_panel<Reading::kTransposed, T>(height, elements_of<T>(length), block.from(0, first), panel,
                                                            c.from(left + first, column), columns, Write::kAdd);
                    first += height;
                }
            }
        }
    }
}

}  // namespace
}  // namespace fastdc
