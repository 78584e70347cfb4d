// Pooling of a map by windows of any size, which may overlap, and what goes back through it.
//
//     pool_windows    to[i, j] = sum over positions of window (i, j) of share * from       [H', W', C] from [H, W, C]
//     spread_windows  to = the sum of what each window gives its positions, share * from    [H, W, C] from [H', W', C]
//
// share is that of the position in its window: 1 / size for a mean, 1 at the winner among `values` [H, W, C] for the
// largest. Both are linear in `from`: pool_windows takes the values themselves or their tangents, spread_windows a
// gradient or its tangent. Winners are those of torch: the first of equals in scan order, a NaN before all.
//
// Included by files that are compiled once per instruction set, hence without external linkage (see instruction_set.h).
#pragma once

#include <cstdint>
#include <limits>

#include "activation.h"
#include "block_parts.h"
#include "vector.h"

namespace fastdc {
namespace {

// A map, and the windows over it.
struct WindowShape {
    int64_t height, width, channels;  // channels: a multiple of 8
    Windows windows;

    int64_t out_height() const { return window_count(windows, windows.rows, height); }
    int64_t out_width() const { return window_count(windows, windows.columns, width); }
    int64_t in_size() const { return height * width * channels; }
    int64_t out_size() const { return out_height() * out_width() * channels; }
};

// The positions begin to end - 1 of a side that a window covers, and its size, padding included.
struct Span {
    int64_t begin, end, size;
};

inline Span span_of(const Windows& windows, const WindowSide& along, int64_t side, int64_t i) {
    if (windows.kind == WindowKind::kAdaptive) {
        const int64_t begin = i * side / along.kernel, end = ((i + 1) * side + along.kernel - 1) / along.kernel;
        return {begin, end, end - begin};
    }
    const int64_t begin = i * along.stride - along.padding, end = begin + along.kernel;
    return {begin < 0 ? 0 : begin, end < side ? end : side, along.kernel};
}

// Calls body(window, rows, columns) for every window.
template <class Body>
FASTDC_INLINE void for_windows(const WindowShape& shape, const Body& body) {
    const int64_t height = shape.out_height(), width = shape.out_width();
    for (int64_t i = 0; i < height; ++i) {
        for (int64_t j = 0; j < width; ++j) {
            body(i * width + j, span_of(shape.windows, shape.windows.rows, shape.height, i),
                 span_of(shape.windows, shape.windows.columns, shape.width, j));
        }
    }
}

// Calls body(offset) for the positions of a window in scan order, at a channel.
template <class Body>
FASTDC_INLINE void for_positions(const WindowShape& shape, Span rows, Span columns, int64_t c, const Body& body) {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
        for (int64_t column = columns.begin; column < columns.end; ++column) {
            body((row * shape.width + column) * shape.channels + c);
        }
    }
}

// The winner of a window at some channels, by its number in scan order.
template <class T, class Vector>
FASTDC_INLINE Vector winner_of(const WindowShape& shape, Span rows, Span columns, int64_t c, const T* values) {
    Vector best = fill<Vector>(-std::numeric_limits<T>::infinity()), winner{};
    T number = 0;
    for_positions(shape, rows, columns, c, [&](int64_t at) FASTDC_INLINE_LAMBDA {
        const Vector value = load<Vector>(values + at);
        const auto wins = (value > best) | (value != value);
        winner = choose(wins, fill<Vector>(number), winner);
        best = choose(wins, value, best);
        number += T(1);
    });
    return winner;
}

template <class T>
void pool_windows(const WindowShape& shape, const T* values, const T* from, T* to) {
    choose_vector<T>(shape.channels, [&](auto vector) {
        using Vector = typename decltype(vector)::type;
        constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
        for_windows(shape, [&](int64_t window, Span rows, Span columns) {
            const T share = T(1) / static_cast<T>(rows.size * columns.size);
            for (int64_t c = 0; c < shape.channels; c += lanes) {
                Vector sum{};
                if (shape.windows.kind == WindowKind::kMax) {
                    const Vector winner = winner_of<T, Vector>(shape, rows, columns, c, values);
                    T number = 0;
                    for_positions(shape, rows, columns, c, [&](int64_t at) FASTDC_INLINE_LAMBDA {
                        sum = choose(winner == number, load<Vector>(from + at), sum);
                        number += T(1);
                    });
                } else {
                    for_positions(shape, rows, columns, c,
                                  [&](int64_t at) FASTDC_INLINE_LAMBDA { sum += load<Vector>(from + at); });
                    sum *= share;
                }
                store(to + window * shape.channels + c, sum);
            }
        });
    });
}

template <class T>
void spread_windows(const WindowShape& shape, const T* values, const T* from, T* to) {
    for (int64_t i = 0; i < shape.in_size(); ++i) to[i] = T(0);
    choose_vector<T>(shape.channels, [&](auto vector) {
        using Vector = typename decltype(vector)::type;
        constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
        for_windows(shape, [&](int64_t window, Span rows, Span columns) {
            const T share = T(1) / static_cast<T>(rows.size * columns.size);
            for (int64_t c = 0; c < shape.channels; c += lanes) {
                const Vector given = load<Vector>(from + window * shape.channels + c);
                if (shape.windows.kind == WindowKind::kMax) {
                    const Vector winner = winner_of<T, Vector>(shape, rows, columns, c, values);
                    T number = 0;
                    for_positions(shape, rows, columns, c, [&](int64_t at) FASTDC_INLINE_LAMBDA {
                        store(to + at, load<Vector>(to + at) + choose(winner == number, given, Vector{}));
                        number += T(1);
                    });
                } else {
                    for_positions(shape, rows, columns, c, [&](int64_t at) FASTDC_INLINE_LAMBDA {
                        store(to + at, load<Vector>(to + at) + given * share);
                    });
                }
            }
        });
    });
}

}  // namespace
}  // namespace fastdc
