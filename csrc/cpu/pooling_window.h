// How the positions of a map are visited, window by window of its pooling, and how gradients come back through it.
//
// Included by files that are compiled once per instruction set, hence without external linkage (see instruction_set.h).
#pragma once

#include <cstdint>

#include "activation.h"
#include "block_shape.h"
#include "vector.h"

namespace fastdc {
namespace {

// What pooling does with the positions of a window.
enum class Take {
    kEach,     // each has its own output
    kAverage,  // four share one output
    kMax,
    kDropped,  // none: an odd last row or column
};

// Whether a walk visits the positions that pooling drops, too.
enum class Positions { kPooled, kAll };

// Calls kernel.window<take, count>(position, out, channel) for all windows and, within each, all vectors of channels:
// whole rows of memory in their order, and coefficients and sums by channel in L1, once per four elements.
// Out of line, that calls which differ elsewhere share it; by value, that no store to a map can seem to change the
// kernel.
template <Pooling pooling, Positions visited, int lanes, class Kernel>
__attribute__((noinline)) void walk(const BlockShape shape, const Kernel kernel) {
    const int64_t channels = shape.channels, width = shape.width;
    if constexpr (pooling == Pooling::kNone) {
        const int64_t positions = shape.height * width;
        int64_t at = 0;
        for (; at + 4 <= positions; at += 4) {
            const int64_t position[4] = {at, at + 1, at + 2, at + 3};
            for (int64_t c = 0; c < channels; c += lanes) kernel.template window<Take::kEach, 4>(position, at, c);
        }
        for (; at < positions; ++at) {
            for (int64_t c = 0; c < channels; c += lanes) kernel.template window<Take::kEach, 1>(&at, at, c);
        }
    } else {
        constexpr Take take = pooling == Pooling::kAverage ? Take::kAverage : Take::kMax;
        int64_t out = 0;
        for (int64_t row = 0; row + 2 <= shape.height; row += 2) {
            for (int64_t column = 0; column + 2 <= width; column += 2, ++out) {
                const int64_t at = row * width + column;
                const int64_t position[4] = {at, at + 1, at + width, at + width + 1};
                for (int64_t c = 0; c < channels; c += lanes) kernel.template window<take, 4>(position, out, c);
            }
        }
        if constexpr (visited == Positions::kAll) {
            for (int64_t row = 0; row < shape.height; ++row) {
                const bool whole_row = row + 1 == shape.height && shape.height % 2;
                for (int64_t column = whole_row ? 0 : width - width % 2; column < width; ++column) {
                    const int64_t at = row * width + column;
                    for (int64_t c = 0; c < channels; c += lanes) {
                        kernel.template window<Take::kDropped, 1>(&at, 0, c);
                    }
                }
            }
        }
    }
}

// The winner of a window, as torch finds it: the first of equals in scan order; a NaN wins over all before it.
template <class T, class Vector, int count>
struct Winner {
    using Mask = decltype(Vector{} > Vector{});
    Vector value;
    Mask wins[count];  // wins[k]: over all before it

    explicit FASTDC_INLINE Winner(const Vector* values) : value(values[0]) {
        for (int k = 1; k < count; ++k) {
            wins[k] = (values[k] > value) | (values[k] != values[k]);
            value = choose(wins[k], values[k], value);
        }
    }
    FASTDC_INLINE Vector pick(const Vector* values) const {
        Vector picked = values[0];
        for (int k = 1; k < count; ++k) picked = choose(wins[k], values[k], picked);
        return picked;
    }
    // x at the winner, 0 elsewhere.
    FASTDC_INLINE void spread(Vector x, Vector* values) const {
        for (int k = count - 1; k > 0; --k) {
            values[k] = choose(wins[k], x, Vector{});
            x = choose(wins[k], Vector{}, x);
        }
        values[0] = x;
    }
};

// The winner among act(y). Monotone activations keep the order of y, which leaves them one evaluation per window.
// (Where they round different y to one value, torch takes the first: there the derivatives are the same, or 0 to
// rounding.)
template <class T, Activation activation, int count, class Vector>
FASTDC_INLINE Winner<T, Vector, count> find_winner(const Vector* y, T slope) {
    if constexpr (activation == Activation::kSwish) {
        Vector a[count];
        for (int k = 0; k < count; ++k) a[k] = Activated<T, Vector, activation>(y[k], slope).value();
        return Winner<T, Vector, count>(a);
    } else {
        return Winner<T, Vector, count>(y);
    }
}

// How far a pass differentiates.
enum class Derivative { kGradient, kItsTangent };

// From gp (and gpdot) at a window, gy = act'(y) ga (and gydot = act''(y) ydot ga + act'(y) gadot) of its positions.
template <class T, Activation activation, Take take, int count, Derivative derivative, class Vector>
FASTDC_INLINE void pull_back(const T* gp, const T* gpdot, int64_t channels, T slope, const Vector* y,
                             const Vector* ydot, Vector* gy, Vector* gydot) {
    using Act = Activated<T, Vector, activation>;
    constexpr bool tangent = derivative == Derivative::kItsTangent;
    constexpr bool curved = tangent && is_curved(activation);
    if constexpr (take == Take::kDropped) {
        for (int k = 0; k < count; ++k) gy[k] = Vector{};
        if constexpr (tangent) {
            for (int k = 0; k < count; ++k) gydot[k] = Vector{};
        }
    } else if constexpr (take == Take::kMax) {
        const auto winner = find_winner<T, activation, count>(y, slope);
        const Act act(winner.pick(y), slope);
        const Vector g = load<Vector>(gp);
        winner.spread(act.times_slope(g), gy);
        if constexpr (tangent) {
            Vector gdot = act.times_slope(load<Vector>(gpdot));
            if constexpr (curved) gdot += act.times_curvature(winner.pick(ydot) * g);
            winner.spread(gdot, gydot);
        }
    } else {
        Vector g{}, gdot{};
        if constexpr (take == Take::kAverage) {
            g = load<Vector>(gp) * T(0.25);
            if constexpr (tangent) gdot = load<Vector>(gpdot) * T(0.25);
        }
        for (int k = 0; k < count; ++k) {
            if constexpr (take == Take::kEach) {
                g = load<Vector>(gp + k * channels);
                if constexpr (tangent) gdot = load<Vector>(gpdot + k * channels);
            }
            const Act act(y[k], slope);
            gy[k] = act.times_slope(g);
            if constexpr (tangent) gydot[k] = act.times_slope(gdot);
            if constexpr (curved) gydot[k] += act.times_curvature(ydot[k] * g);
        }
    }
}

}  // namespace
}  // namespace fastdc
