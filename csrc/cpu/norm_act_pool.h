// Norm, activation and pooling of one ConvNet block on one image, with their derivatives: backward, tangent, and the
// tangent of backward.
//
// Maps are channels last: z, zdot, gz, gzdot are [H, W, C]; p, pdot, gp, gpdot are [H', W', C] with H' = H/2, W' = W/2
// rounded down under pooling (2x2, stride 2; an odd last row or column is dropped) and H' = H, W' = W without. C is a
// multiple of 8. For a conv output z (its bias is already in it):
//     n = (z - mean) r,  r = 1 / sqrt(var + 1e-5)       mean and biased variance by the norm, below
//     y = gamma n + beta,  a = act(y),  p = pool(a)
// Norm        mean and var over                                        gamma, beta
//     instance   H, W of each channel                                     [C]
//     group      H, W and C / groups consecutive channels                 [C]
//     layer      H, W, C                                                  [C, H, W], or [H, W, C]: affine_channels_last
//     batch      given (frozen_mean, frozen_var [C])                      [C]
//     none       nothing: y = z                                           unused
// Where gamma and beta are [C], null stands for ones and zeros; so do null tangents gammadot, betadot for zeros (any
// norm).
//
// stats [stats_size]: what forward leaves for the others, by channel: mean, r, s = gamma r and beta (layer: s = r, beta
// = 0). With these, d = z - mean and y = s d + beta. Every derivative below has been brought into this form, a few
// fused multiply-adds on d with coefficients by channel, so that a pass over the map is bound by its loads:
//     ndot = r (zdot - t1 - n t2),  t1 = mean(zdot),  t2 = mean(n zdot) (the tangent of 1 / r), rdot = -r r t2
//     ydot = gammadot n + gamma ndot + betadot = s zdot + k1 d + k0
//         k1 = gammadot r - s r t2,  k0 = betadot - s t1
//     gz = r (gn - m1 - n m2) = s gy + q d + u,  gn = gamma gy,  m1 = mean(gn),  m2 = mean(gn n)
//         q = -r r m2,  u = -r m1
//     gzdot = s gydot + k1 gy + q zdot + v1 d + v0
//         v1 = 2 r r r m2 t2 - r r m2dot,  v0 = -r m1dot + r r (m2 t1 + m1 t2)
// Layer norm uses the same with gn for gy, gndot = gammadot gy + gamma gydot for gydot, ndot for ydot, and gamma = 1,
// gammadot = 0 in the coefficients, as its own gamma changes with the position. tangent_stats [tangent_stats_size]: t1,
// t2, k1, k0.
//
// Sums run in the order of positions, per channel, and are the same whatever the number of channels beside it.
//
// Included by files that are compiled once per instruction set, hence without external linkage (see instruction_set.h).
#pragma once

#include <cstdint>

#include "vector.h"

namespace fastdc {
namespace {

enum class Norm { kInstance, kGroup, kLayer, kBatch, kNone };
enum class Activation { kRelu, kLeakyRelu, kSigmoid, kSwish };
enum class Pooling { kAverage, kMax, kNone };

struct BlockShape {
    int64_t height;
    int64_t width;
    int64_t channels;  // a multiple of 8
    int64_t groups;    // of Norm::kGroup only: a divisor of channels
    Norm norm;
    Activation activation;
    Pooling pooling;
    bool affine_channels_last = false;  // Norm::kLayer only: gamma, beta, their tangents and gradients are [H, W, C]
};

FASTDC_INLINE int64_t map_size(const BlockShape& shape) {
    return shape.height * shape.width * shape.channels;
}
FASTDC_INLINE int64_t pooled_height(const BlockShape& shape) {
    return shape.pooling == Pooling::kNone ? shape.height : shape.height / 2;
}
FASTDC_INLINE int64_t pooled_width(const BlockShape& shape) {
    return shape.pooling == Pooling::kNone ? shape.width : shape.width / 2;
}
FASTDC_INLINE int64_t pooled_size(const BlockShape& shape) {
    return pooled_height(shape) * pooled_width(shape) * shape.channels;
}
FASTDC_INLINE int64_t affine_size(const BlockShape& shape) {
    return shape.norm == Norm::kNone ? 0 : shape.norm == Norm::kLayer ? map_size(shape) : shape.channels;
}
FASTDC_INLINE int64_t stats_size(const BlockShape& shape) {
    return 4 * shape.channels;
}
FASTDC_INLINE int64_t tangent_stats_size(const BlockShape& shape) {
    return 4 * shape.channels;
}
FASTDC_INLINE int64_t backward_scratch_size(const BlockShape& shape) {
    return 2 * shape.channels;
}
FASTDC_INLINE int64_t backward_tangent_scratch_size(const BlockShape& shape) {
    return 4 * shape.channels;
}

// ---------------------------------------------------------------------------------------------------------------------
// Activations
// ---------------------------------------------------------------------------------------------------------------------

// x in every lane. Subtracting zero, unlike adding it, is no operation for the compiler.
template <class Vector, class T>
FASTDC_INLINE Vector fill(T x) {
    return x - Vector{};
}

// Mask vectors choose between values; a comparison with NaN is false, and each use below says which side NaN takes.
template <class Vector, class Mask>
FASTDC_INLINE Vector choose(Mask mask, Vector yes, Vector no) {
    return mask ? yes : no;
}

template <class T>
struct Exponential;

template <>
struct Exponential<float> {
    using Bits = uint32_t;
    static constexpr float kLimit = 87.0f;        // beyond, 2^k would leave the normal numbers
    static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    static constexpr float kLog2High = 0.693359375f;  // short enough for exact products with k
    static constexpr float kLog2Low = -2.12194440e-4f;
    static constexpr int kMantissa = 23;
    static constexpr Bits kBias = 127;

    template <class Vector>
    static FASTDC_INLINE Vector polynomial(Vector x) {  // Cephes expf
        Vector p = x * 1.9875691500e-4f + 1.3981999507e-3f;
        p = p * x + 8.3334519073e-3f;
        p = p * x + 4.1665795894e-2f;
        p = p * x + 1.6666665459e-1f;
        p = p * x + 5.0000001201e-1f;
        return p * (x * x) + x + 1.0f;
    }
};

template <>
struct Exponential<double> {
    using Bits = uint64_t;
    static constexpr double kLimit = 708.0;
    static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr double kLog2High = 6.93145751953125e-1;
    static constexpr double kLog2Low = 1.42860682030941723212e-6;
    static constexpr int kMantissa = 52;
    static constexpr Bits kBias = 1023;

    template <class Vector>
    static FASTDC_INLINE Vector polynomial(Vector x) {  // Taylor: the next term is below 5e-18 for |x| <= log(2) / 2
        Vector p = x * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
        p = p * x + 1.0 / 39916800.0;
        p = p * x + 1.0 / 3628800.0;
        p = p * x + 1.0 / 362880.0;
        p = p * x + 1.0 / 40320.0;
        p = p * x + 1.0 / 5040.0;
        p = p * x + 1.0 / 720.0;
        p = p * x + 1.0 / 120.0;
        p = p * x + 1.0 / 24.0;
        p = p * x + 1.0 / 6.0;
        p = p * x + 0.5;
        return p * (x * x) + x + 1.0;
    }
};

// exp(x) for |x| up to kLimit and at the limit beyond; NaN for NaN.
template <class T, class Vector>
FASTDC_INLINE Vector exponential(Vector x) {
    using Table = Exponential<T>;
    using Bits = typename VectorOf<typename Table::Bits, static_cast<int>(sizeof(Vector) / sizeof(T))>::type;
    x = choose(x > Table::kLimit, fill<Vector>(Table::kLimit), x);
    x = choose(x < -Table::kLimit, fill<Vector>(-Table::kLimit), x);
    const Vector rounded = x * static_cast<T>(1.44269504088896340736) + Table::kRound;
    const Vector k = rounded - Table::kRound;
    const Vector rest = (x - k * Table::kLog2High) - k * Table::kLog2Low;
    // The low bits of `rounded` are k in two's complement; the shift drops the others. NaN survives in the polynomial.
    const Bits power = ((Bits)rounded + Table::kBias) << Table::kMantissa;
    return Table::template polynomial<Vector>(rest) * (Vector)power;
}

// An activation at y: its value, and products with its first two derivatives, all as torch has them at kinks and at
// NaN.
template <class T, class Vector, Activation activation>
struct Activated;

template <class T, class Vector>
struct Activated<T, Vector, Activation::kRelu> {
    Vector y;
    explicit FASTDC_INLINE Activated(Vector at) : y(at) {}
    FASTDC_INLINE Vector value() const { return choose(y < T(0), Vector{}, y); }
    FASTDC_INLINE Vector times_slope(Vector g) const { return choose(y <= T(0), Vector{}, g); }
    FASTDC_INLINE Vector times_curvature(Vector) const { return Vector{}; }
};

template <class T, class Vector>
struct Activated<T, Vector, Activation::kLeakyRelu> {
    Vector y;
    explicit FASTDC_INLINE Activated(Vector at) : y(at) {}
    FASTDC_INLINE Vector value() const { return choose(y > T(0), y, y * T(0.01)); }
    FASTDC_INLINE Vector times_slope(Vector g) const { return choose(y > T(0), g, g * T(0.01)); }
    FASTDC_INLINE Vector times_curvature(Vector) const { return Vector{}; }
};

template <class T, class Vector>
struct Activated<T, Vector, Activation::kSigmoid> {
    Vector a;  // sigmoid(y)
    Vector b;  // 1 - a, without its cancellation
    explicit FASTDC_INLINE Activated(Vector y) {
        Vector e = exponential<T>(-y);
        e = choose(y > Exponential<T>::kLimit, Vector{}, e);  // exact zeros, which a huge y of swish multiplies
        a = T(1) / (e + T(1));
        b = e * a;
        a = choose(y < -Exponential<T>::kLimit, Vector{}, a);
    }
    FASTDC_INLINE Vector value() const { return a; }
    FASTDC_INLINE Vector times_slope(Vector g) const { return a * b * g; }
    FASTDC_INLINE Vector times_curvature(Vector g) const { return a * b * (b - a) * g; }
};

template <class T, class Vector>
struct Activated<T, Vector, Activation::kSwish> {
    Vector y;
    Activated<T, Vector, Activation::kSigmoid> sigmoid;
    explicit FASTDC_INLINE Activated(Vector at) : y(at), sigmoid(at) {}
    FASTDC_INLINE Vector value() const { return y * sigmoid.a; }
    FASTDC_INLINE Vector times_slope(Vector g) const { return (y * sigmoid.b + T(1)) * sigmoid.a * g; }
    FASTDC_INLINE Vector times_curvature(Vector g) const {
        return sigmoid.a * sigmoid.b * (y * (sigmoid.b - sigmoid.a) + T(2)) * g;
    }
};

constexpr bool is_curved(Activation activation) {
    return activation == Activation::kSigmoid || activation == Activation::kSwish;
}

// ---------------------------------------------------------------------------------------------------------------------
// Windows: how the positions of a map are visited
// ---------------------------------------------------------------------------------------------------------------------

// What pooling does with the positions of a window.
enum class Take {
    kEach,     // each has its own output
    kAverage,  // four share one output
    kMax,
    kDropped,  // none: an odd last row or column
};

// Calls kernel.window<take, count>(position, out, channel) for all windows and, within each, all vectors of channels:
// whole rows of memory in their order, and coefficients and sums by channel in L1, once per four elements.
// Out of line, that calls which differ elsewhere share it; by value, that no store to a map can seem to change the
// kernel.
template <Pooling pooling, bool with_dropped, int lanes, class Kernel>
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
        if constexpr (with_dropped) {
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
FASTDC_INLINE Winner<T, Vector, count> find_winner(const Vector* y) {
    if constexpr (activation == Activation::kSwish) {
        Vector a[count];
        for (int k = 0; k < count; ++k) a[k] = Activated<T, Vector, activation>(y[k]).value();
        return Winner<T, Vector, count>(a);
    } else {
        return Winner<T, Vector, count>(y);
    }
}

// From gp (and gpdot) at a window, gy = act'(y) ga (and gydot = act''(y) ydot ga + act'(y) gadot) of its positions.
template <class T, Activation activation, Take take, int count, bool tangent, class Vector>
FASTDC_INLINE void pull_back(const T* gp, const T* gpdot, int64_t channels, const Vector* y, const Vector* ydot,
                             Vector* gy, Vector* gydot) {
    using Act = Activated<T, Vector, activation>;
    constexpr bool curved = tangent && is_curved(activation);
    if constexpr (take == Take::kDropped) {
        for (int k = 0; k < count; ++k) gy[k] = Vector{};
        if constexpr (tangent) {
            for (int k = 0; k < count; ++k) gydot[k] = Vector{};
        }
    } else if constexpr (take == Take::kMax) {
        const auto winner = find_winner<T, activation, count>(y);
        const Act act(winner.pick(y));
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
            const Act act(y[k]);
            gy[k] = act.times_slope(g);
            if constexpr (tangent) gydot[k] = act.times_slope(gdot);
            if constexpr (curved) gydot[k] += act.times_curvature(ydot[k] * g);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Passes: what is done at a window and a vector of channels
// ---------------------------------------------------------------------------------------------------------------------

// What the passes distinguish among norms; those that write no gz take kMoving for kFixed.
enum class Affine {
    kMoving,   // by channel, statistics of the map: instance, group
    kFixed,    // by channel, statistics given: batch, none
    kElement,  // by element, statistics of the map: layer
};

constexpr Affine reading(Affine affine) {
    return affine == Affine::kFixed ? Affine::kMoving : affine;
}

// gamma, beta and their like of layer norm, in either order. Torch's is the slow one: out of line, or its many copies
// would take longer to compile than all else.
template <class T, int lanes>
__attribute__((noinline)) void gather(const T* from, int64_t stride, T* to) {
    for (int i = 0; i < lanes; ++i) to[i] = from[i * stride];
}
template <class T, int lanes>
__attribute__((noinline)) void scatter_add(const T* from, int64_t stride, T* to) {
    for (int i = 0; i < lanes; ++i) to[i * stride] += from[i];
}

template <class T>
struct ElementOrder {
    int64_t channels;
    int64_t positions;
    bool channels_last;

    template <class Vector>
    FASTDC_INLINE Vector get(const T* from, int64_t position, int64_t c) const {
        if (__builtin_expect(channels_last, 1)) return load<Vector>(from + position * channels + c);
        constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
        T values[lanes];
        gather<T, lanes>(from + c * positions + position, positions, values);
        return load<Vector>(values);
    }
    template <class Vector>
    FASTDC_INLINE void add(T* to, int64_t position, int64_t c, Vector value) const {
        if (__builtin_expect(channels_last, 1)) {
            T* at = to + position * channels + c;
            store(at, load<Vector>(at) + value);
            return;
        }
        constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
        T values[lanes];
        store(values, value);
        scatter_add<T, lanes>(values, positions, to + c * positions + position);
    }
};

// The map and its norm, which all passes read.
template <class T, class VectorType, Activation activation_, Affine affine_>
struct Primal {
    using Vector = VectorType;
    static constexpr Activation activation = activation_;
    static constexpr Affine affine = affine_;

    const T* z;
    const T* stats;
    const T* gamma;  // of kElement only, as is beta
    const T* beta;
    ElementOrder<T> order;

    FASTDC_INLINE Primal(const BlockShape& shape, const T* z_, const T* gamma_, const T* beta_, const T* stats_)
        : z(z_),
          stats(stats_),
          gamma(gamma_),
          beta(beta_),
          order{shape.channels, shape.height * shape.width, shape.affine_channels_last} {}

    FASTDC_INLINE Vector r(int64_t c) const { return load<Vector>(stats + order.channels + c); }
    FASTDC_INLINE Vector s(int64_t c) const { return load<Vector>(stats + 2 * order.channels + c); }

    template <int count>
    FASTDC_INLINE void read(const int64_t* position, int64_t c, Vector* d, Vector* y) const {
        const Vector mean = load<Vector>(stats + c), scale = s(c);
        const Vector shift = load<Vector>(stats + 3 * order.channels + c);
        for (int k = 0; k < count; ++k) {
            d[k] = load<Vector>(z + position[k] * order.channels + c) - mean;
            if constexpr (affine == Affine::kElement) {
                y[k] = d[k] * scale * order.template get<Vector>(gamma, position[k], c) +
                       order.template get<Vector>(beta, position[k], c);
            } else {
                y[k] = d[k] * scale + shift;
            }
        }
    }
};

template <class T, class Map>
struct ForwardPass {
    using Vector = typename Map::Vector;
    Map map;
    T* p;

    template <Take take, int count>
    FASTDC_INLINE void window(const int64_t* position, int64_t out, int64_t c) const {
        using Act = Activated<T, Vector, Map::activation>;
        Vector d[count], y[count];
        map.template read<count>(position, c, d, y);
        T* to = p + out * map.order.channels + c;
        if constexpr (take == Take::kMax) {
            const auto winner = find_winner<T, Map::activation, count>(y);
            if constexpr (Map::activation == Activation::kSwish) {
                store(to, winner.value);
            } else {
                store(to, Act(winner.value).value());
            }
        } else if constexpr (take == Take::kAverage) {
            Vector sum = Act(y[0]).value();
            for (int k = 1; k < count; ++k) sum += Act(y[k]).value();
            store(to, sum * T(0.25));
        } else {
            for (int k = 0; k < count; ++k) store(to + k * map.order.channels, Act(y[k]).value());
        }
    }
};

// zdot, and the tangents that follow from it. In kElement, ndot first and ydot from it.
template <class T, class Map>
struct Tangent {
    using Vector = typename Map::Vector;
    const T* zdot;
    const T* tangent_stats;
    const T* gammadot;  // of kElement only, may be null, as may betadot
    const T* betadot;

    template <int count>
    FASTDC_INLINE void read(const Map& map, const int64_t* position, int64_t c, Vector* zd) const {
        for (int k = 0; k < count; ++k) zd[k] = load<Vector>(zdot + position[k] * map.order.channels + c);
    }
    template <int count>
    FASTDC_INLINE void push(const Map& map, const int64_t* position, int64_t c, const Vector* d, const Vector* zd,
                            Vector* yd) const {
        const int64_t channels = map.order.channels;
        const Vector scale = map.s(c), k1 = load<Vector>(tangent_stats + 2 * channels + c);
        const Vector k0 = load<Vector>(tangent_stats + 3 * channels + c);
        for (int k = 0; k < count; ++k) {
            yd[k] = zd[k] * scale + (d[k] * k1 + k0);
            if constexpr (Map::affine == Affine::kElement) {
                yd[k] *= map.order.template get<Vector>(map.gamma, position[k], c);
                if (gammadot) yd[k] += d[k] * scale * map.order.template get<Vector>(gammadot, position[k], c);
                if (betadot) yd[k] += map.order.template get<Vector>(betadot, position[k], c);
            }
        }
    }
};

template <class T, class Map>
struct ForwardTangentPass {
    using Vector = typename Map::Vector;
    Map map;
    Tangent<T, Map> tangent;
    T* pdot;

    template <Take take, int count>
    FASTDC_INLINE void window(const int64_t* position, int64_t out, int64_t c) const {
        using Act = Activated<T, Vector, Map::activation>;
        Vector d[count], y[count], zd[count], yd[count];
        map.template read<count>(position, c, d, y);
        tangent.template read<count>(map, position, c, zd);
        tangent.template push<count>(map, position, c, d, zd, yd);
        T* to = pdot + out * map.order.channels + c;
        if constexpr (take == Take::kMax) {
            const auto winner = find_winner<T, Map::activation, count>(y);
            store(to, Act(winner.pick(y)).times_slope(winner.pick(yd)));
        } else if constexpr (take == Take::kAverage) {
            Vector sum = Act(y[0]).times_slope(yd[0]);
            for (int k = 1; k < count; ++k) sum += Act(y[k]).times_slope(yd[k]);
            store(to, sum * T(0.25));
        } else {
            for (int k = 0; k < count; ++k) store(to + k * map.order.channels, Act(y[k]).times_slope(yd[k]));
        }
    }
};

// Adds the sum of values to the sums of its channels.
template <int count, class T, class Vector>
FASTDC_INLINE void accumulate(T* sums, const Vector* values) {
    Vector sum = values[0];
    for (int k = 1; k < count; ++k) sum += values[k];
    store(sums, load<Vector>(sums) + sum);
}
template <int count, class T, class Vector>
FASTDC_INLINE void accumulate_products(T* sums, const Vector* left, const Vector* right) {
    Vector sum = left[0] * right[0];
    for (int k = 1; k < count; ++k) sum += left[k] * right[k];
    store(sums, load<Vector>(sums) + sum);
}

// Sums by channel of gy and gy d, and in kElement of gn and gn d, with the gradients of gamma and beta there and then.
template <class T, class Map>
struct BackwardSumsPass {
    using Vector = typename Map::Vector;
    Map map;
    const T* gp;
    T* sums;    // [2, C]
    T* ggamma;  // of kElement only, may be null, as may gbeta
    T* gbeta;

    template <Take take, int count>
    FASTDC_INLINE void window(const int64_t* position, int64_t out, int64_t c) const {
        const int64_t channels = map.order.channels;
        Vector d[count], y[count], gy[count];
        map.template read<count>(position, c, d, y);
        pull_back<T, Map::activation, take, count, false, Vector>(gp + out * channels + c, nullptr, channels, y,
                                                                  nullptr, gy, nullptr);
        if constexpr (Map::affine == Affine::kElement) {
            for (int k = 0; k < count; ++k) {
                if (gbeta) map.order.add(gbeta, position[k], c, gy[k]);
                if (ggamma) map.order.add(ggamma, position[k], c, gy[k] * d[k] * map.s(c));
                gy[k] *= map.order.template get<Vector>(map.gamma, position[k], c);
            }
        }
        accumulate<count>(sums + c, gy);
        accumulate_products<count>(sums + channels + c, gy, d);
    }
};

template <class T, class Map>
struct BackwardPass {
    using Vector = typename Map::Vector;
    Map map;
    const T* gp;
    const T* coefficients;  // [2, C]: u, q; unused in kFixed
    T* gz;

    template <Take take, int count>
    FASTDC_INLINE void window(const int64_t* position, int64_t out, int64_t c) const {
        const int64_t channels = map.order.channels;
        Vector d[count], y[count], gy[count];
        map.template read<count>(position, c, d, y);
        pull_back<T, Map::activation, take, count, false, Vector>(gp + out * channels + c, nullptr, channels, y,
                                                                  nullptr, gy, nullptr);
        const Vector scale = map.s(c);
        Vector u{}, q{};
        if constexpr (Map::affine != Affine::kFixed) {
            u = load<Vector>(coefficients + c);
            q = load<Vector>(coefficients + channels + c);
        }
        for (int k = 0; k < count; ++k) {
            if constexpr (Map::affine == Affine::kElement)
                gy[k] *= map.order.template get<Vector>(map.gamma, position[k], c);
            Vector g = gy[k] * scale;
            if constexpr (Map::affine != Affine::kFixed) g += d[k] * q + u;
            store(gz + position[k] * channels + c, g);
        }
    }
};

// What both passes of backward_tangent need at a window: gy and gydot, and in kElement gn and gndot in their place.
template <class T, class Map>
struct BackwardTangentWindow {
    using Vector = typename Map::Vector;
    Map map;
    Tangent<T, Map> tangent;
    const T* gp;
    const T* gpdot;

    template <Take take, int count>
    FASTDC_INLINE void read(const int64_t* position, int64_t out, int64_t c, Vector* d, Vector* zd, Vector* gy,
                            Vector* gyd) const {
        const int64_t channels = map.order.channels, at = out * channels + c;
        Vector y[count], yd[count];
        map.template read<count>(position, c, d, y);
        tangent.template read<count>(map, position, c, zd);
        if constexpr (is_curved(Map::activation)) tangent.template push<count>(map, position, c, d, zd, yd);
        pull_back<T, Map::activation, take, count, true, Vector>(gp + at, gpdot + at, channels, y, yd, gy, gyd);
        if constexpr (Map::affine == Affine::kElement) {
            for (int k = 0; k < count; ++k) {
                const Vector gamma = map.order.template get<Vector>(map.gamma, position[k], c);
                gyd[k] *= gamma;
                if (tangent.gammadot) {
                    gyd[k] += gy[k] * map.order.template get<Vector>(tangent.gammadot, position[k], c);
                }
                gy[k] *= gamma;
            }
        }
    }
};

// Sums by channel of gy, gy d, gydot, and gydot d + gy zdot (in kElement of gn and gndot).
template <class T, class Map>
struct BackwardTangentSumsPass {
    using Vector = typename Map::Vector;
    BackwardTangentWindow<T, Map> at;
    T* sums;  // [4, C]

    template <Take take, int count>
    FASTDC_INLINE void window(const int64_t* position, int64_t out, int64_t c) const {
        const int64_t channels = at.map.order.channels;
        Vector d[count], zd[count], gy[count], gyd[count], mixed[count];
        at.template read<take, count>(position, out, c, d, zd, gy, gyd);
        for (int k = 0; k < count; ++k) mixed[k] = gyd[k] * d[k] + gy[k] * zd[k];
        accumulate<count>(sums + c, gy);
        accumulate_products<count>(sums + channels + c, gy, d);
        accumulate<count>(sums + 2 * channels + c, gyd);
        accumulate<count>(sums + 3 * channels + c, mixed);
    }
};

template <class T, class Map>
struct BackwardTangentPass {
    using Vector = typename Map::Vector;
    BackwardTangentWindow<T, Map> at;
    const T* coefficients;  // [4, C]: u, q, v0, v1; unused in kFixed
    T* gz;
    T* gzdot;

    template <Take take, int count>
    FASTDC_INLINE void window(const int64_t* position, int64_t out, int64_t c) const {
        const int64_t channels = at.map.order.channels;
        Vector d[count], zd[count], gy[count], gyd[count];
        at.template read<take, count>(position, out, c, d, zd, gy, gyd);
        const Vector scale = at.map.s(c), k1 = load<Vector>(at.tangent.tangent_stats + 2 * channels + c);
        Vector u{}, q{}, v0{}, v1{};
        if constexpr (Map::affine != Affine::kFixed) {
            u = load<Vector>(coefficients + c);
            q = load<Vector>(coefficients + channels + c);
            v0 = load<Vector>(coefficients + 2 * channels + c);
            v1 = load<Vector>(coefficients + 3 * channels + c);
        }
        for (int k = 0; k < count; ++k) {
            Vector g = gy[k] * scale;
            Vector gdot = gyd[k] * scale + gy[k] * k1;
            if constexpr (Map::affine != Affine::kFixed) {
                g += d[k] * q + u;
                gdot += zd[k] * q + (d[k] * v1 + v0);
            }
            store(gz + position[k] * channels + c, g);
            store(gzdot + position[k] * channels + c, gdot);
        }
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// Statistics
// ---------------------------------------------------------------------------------------------------------------------

template <class T>
FASTDC_INLINE void clear(T* values, int64_t size) {
    for (int64_t i = 0; i < size; ++i) values[i] = T(0);
}

// Merges `count` positions into mean and squares (sum of squared deviations from the mean) of `seen` earlier ones,
// after Chan et al. (1979): one pass over the map, as accurate as two, whatever the size of the mean.
template <int count, class T, class Vector>
FASTDC_INLINE void merge_positions(const T* z, int64_t channels, int64_t seen, T* mean, T* squares) {
    constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
    const T share = T(count) / T(seen + count), weight = T(seen) * share;
    for (int64_t c = 0; c < channels; c += lanes) {
        Vector value[count];
        for (int k = 0; k < count; ++k) value[k] = load<Vector>(z + k * channels + c);
        Vector sum = value[0];
        for (int k = 1; k < count; ++k) sum += value[k];
        const Vector center = sum * (T(1) / T(count));
        Vector spread = (value[0] - center) * (value[0] - center);
        for (int k = 1; k < count; ++k) spread += (value[k] - center) * (value[k] - center);
        const Vector before = load<Vector>(mean + c), step = center - before;
        store(mean + c, before + step * share);
        store(squares + c, load<Vector>(squares + c) + (spread + step * step * weight));
    }
}

template <class T, class Vector>
void moments(const T* z, int64_t positions, int64_t channels, T* mean, T* squares) {
    clear(mean, channels);
    clear(squares, channels);
    int64_t at = 0;
    for (; at + 8 <= positions; at += 8) merge_positions<8, T, Vector>(z + at * channels, channels, at, mean, squares);
    if (at + 4 <= positions) {
        merge_positions<4, T, Vector>(z + at * channels, channels, at, mean, squares);
        at += 4;
    }
    for (; at < positions; ++at) merge_positions<1, T, Vector>(z + at * channels, channels, at, mean, squares);
}

// Sums by channel of zdot and d zdot.
template <int count, class T, class Vector>
FASTDC_INLINE void add_tangents(const T* z, const T* zdot, int64_t channels, const T* mean, T* sums) {
    constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
    for (int64_t c = 0; c < channels; c += lanes) {
        const Vector center = load<Vector>(mean + c);
        Vector d[count], zd[count];
        for (int k = 0; k < count; ++k) d[k] = load<Vector>(z + k * channels + c) - center;
        for (int k = 0; k < count; ++k) zd[k] = load<Vector>(zdot + k * channels + c);
        accumulate<count>(sums + c, zd);
        accumulate_products<count>(sums + channels + c, d, zd);
    }
}

template <class T, class Vector>
void tangent_sums(const T* z, const T* zdot, int64_t positions, int64_t channels, const T* mean, T* sums) {
    clear(sums, 2 * channels);
    int64_t at = 0;
    for (; at + 4 <= positions; at += 4) {
        add_tangents<4, T, Vector>(z + at * channels, zdot + at * channels, channels, mean, sums);
    }
    for (; at < positions; ++at) {
        add_tangents<1, T, Vector>(z + at * channels, zdot + at * channels, channels, mean, sums);
    }
}

// Channels that share their statistics.
FASTDC_INLINE int64_t channels_per_group(const BlockShape& shape) {
    return shape.norm == Norm::kGroup ? shape.channels / shape.groups : shape.norm == Norm::kLayer ? shape.channels : 1;
}

// Turns sums over the positions of each channel into means over all that shares its statistics.
template <class T>
FASTDC_INLINE void share_means(const BlockShape& shape, T* sums) {
    const int64_t size = channels_per_group(shape);
    const T share = T(1) / T(shape.height * shape.width * size);
    if (size == 1) {
        for (int64_t c = 0; c < shape.channels; ++c) sums[c] *= share;
        return;
    }
    for (int64_t first = 0; first < shape.channels; first += size) {
        T sum = T(0);
        for (int64_t c = first; c < first + size; ++c) sum += sums[c];
        for (int64_t c = first; c < first + size; ++c) sums[c] = sum * share;
    }
}

FASTDC_INLINE float square_root(float x) {
    return __builtin_sqrtf(x);
}
FASTDC_INLINE double square_root(double x) {
    return __builtin_sqrt(x);
}

template <class T, class Vector>
__attribute__((noinline)) void fill_stats(const BlockShape& shape, const T* z, const T* gamma, const T* beta,
                                          const T* frozen_mean, const T* frozen_var, T* stats) {
    const int64_t channels = shape.channels, positions = shape.height * shape.width, size = channels_per_group(shape);
    T* mean = stats;
    T* r = stats + channels;
    T* s = stats + 2 * channels;
    T* shift = stats + 3 * channels;
    if (shape.norm == Norm::kNone) {
        clear(mean, channels);
        for (int64_t c = 0; c < channels; ++c) r[c] = T(1);
    } else {
        if (shape.norm == Norm::kBatch) {
            for (int64_t c = 0; c < channels; ++c) mean[c] = frozen_mean[c];
            for (int64_t c = 0; c < channels; ++c) r[c] = frozen_var[c];
        } else {
            moments<T, Vector>(z, positions, channels, mean, r);
            if (size > 1) {
                for (int64_t first = 0; first < channels; first += size) {
                    T center = T(0);
                    for (int64_t c = first; c < first + size; ++c) center += mean[c];
                    center /= T(size);
                    for (int64_t c = first; c < first + size; ++c) {
                        r[c] += (mean[c] - center) * (mean[c] - center) * T(positions);
                        mean[c] = center;
                    }
                }
            }
            share_means(shape, r);
        }
        for (int64_t c = 0; c < channels; ++c)
            r[c] = T(1) / square_root(r[c] + T(1e-5)) + (r[c] - r[c]);  // NaN where the sum overflowed
    }
    const bool by_channel = shape.norm != Norm::kLayer && shape.norm != Norm::kNone;
    for (int64_t c = 0; c < channels; ++c) s[c] = by_channel && gamma ? gamma[c] * r[c] : r[c];
    for (int64_t c = 0; c < channels; ++c) shift[c] = by_channel && beta ? beta[c] : T(0);
}

// The coefficients of the passes, by channel: in functions of their own, that the many templates below share them.

// From sums of gy and gy d, u and q in their place; adds to ggamma and gbeta [C]. Layer norm has the sums of gn and gn
// d, and has added already.
template <class T>
__attribute__((noinline)) void backward_coefficients(const BlockShape& shape, const T* gamma, const T* stats, T* ggamma,
                                                     T* gbeta, T* sums) {
    const int64_t channels = shape.channels;
    const T* r = stats + channels;
    T* sum = sums;
    T* product = sums + channels;
    for (int64_t c = 0; c < channels; ++c) product[c] *= r[c];
    if (shape.norm != Norm::kLayer) {
        if (gbeta) {
            for (int64_t c = 0; c < channels; ++c) gbeta[c] += sum[c];
        }
        if (ggamma) {
            for (int64_t c = 0; c < channels; ++c) ggamma[c] += product[c];
        }
        if (shape.norm == Norm::kBatch) return;
        if (gamma) {
            for (int64_t c = 0; c < channels; ++c) sum[c] *= gamma[c];
            for (int64_t c = 0; c < channels; ++c) product[c] *= gamma[c];
        }
    }
    share_means(shape, sum);
    share_means(shape, product);
    for (int64_t c = 0; c < channels; ++c) sum[c] *= -r[c];
    for (int64_t c = 0; c < channels; ++c) product[c] *= -r[c] * r[c];
}

// t1, t2, k1, k0 [4, C].
template <class T, class Vector>
__attribute__((noinline)) void tangent_coefficients(const BlockShape& shape, const T* z, const T* zdot,
                                                    const T* gammadot, const T* betadot, const T* stats,
                                                    T* tangent_stats) {
    const int64_t channels = shape.channels;
    const T* r = stats + channels;
    const T* s = stats + 2 * channels;
    T* t1 = tangent_stats;
    T* t2 = tangent_stats + channels;
    T* k1 = tangent_stats + 2 * channels;
    T* k0 = tangent_stats + 3 * channels;
    if (shape.norm == Norm::kBatch || shape.norm == Norm::kNone) {
        clear(t1, 2 * channels);
    } else {
        tangent_sums<T, Vector>(z, zdot, shape.height * shape.width, channels, stats, t1);
        share_means(shape, t1);
        for (int64_t c = 0; c < channels; ++c) t2[c] *= r[c];
        share_means(shape, t2);
    }
    for (int64_t c = 0; c < channels; ++c) k1[c] = -s[c] * r[c] * t2[c];
    for (int64_t c = 0; c < channels; ++c) k0[c] = -s[c] * t1[c];
    if (shape.norm == Norm::kLayer || shape.norm == Norm::kNone) return;
    if (gammadot) {
        for (int64_t c = 0; c < channels; ++c) k1[c] += gammadot[c] * r[c];
    }
    if (betadot) {
        for (int64_t c = 0; c < channels; ++c) k0[c] += betadot[c];
    }
}

// From sums of gy, gy d, gydot, gydot d + gy zdot (layer norm: of gn and gndot), u, q, v0, v1 in their place.
template <class T>
__attribute__((noinline)) void backward_tangent_coefficients(const BlockShape& shape, const T* gamma, const T* gammadot,
                                                             const T* stats, const T* tangent_stats, T* sums) {
    const int64_t channels = shape.channels;
    const T* r = stats + channels;
    const T* t1 = tangent_stats;
    const T* t2 = tangent_stats + channels;
    T* sum = sums;
    T* product = sums + channels;
    T* sumdot = sums + 2 * channels;
    T* productdot = sums + 3 * channels;
    const bool by_channel = shape.norm != Norm::kLayer;
    for (int64_t c = 0; c < channels; ++c) {  // to those of gn, gn n, gndot, gndot n + gn ndot
        const T gain = by_channel && gamma ? gamma[c] : T(1);
        const T gaindot = by_channel && gammadot ? gammadot[c] : T(0);
        const T n_sum = product[c] * r[c];
        productdot[c] = gaindot * n_sum + gain * (r[c] * (productdot[c] - t1[c] * sum[c] - t2[c] * n_sum));
        sumdot[c] = gaindot * sum[c] + gain * sumdot[c];
        product[c] = gain * n_sum;
        sum[c] *= gain;
    }
    share_means(shape, sum);
    share_means(shape, product);
    share_means(shape, sumdot);
    share_means(shape, productdot);
    for (int64_t c = 0; c < channels; ++c) {
        const T m1 = sum[c], m2 = product[c], rr = r[c] * r[c];
        sum[c] = -r[c] * m1;
        product[c] = -rr * m2;
        sumdot[c] = rr * (m2 * t1[c] + m1 * t2[c]) - r[c] * sumdot[c];
        productdot[c] = rr * (T(2) * r[c] * m2 * t2[c] - productdot[c]);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Choice of the templates, once per call
// ---------------------------------------------------------------------------------------------------------------------

template <class Type, Type value_>
struct Constant {
    static constexpr Type value = value_;
};
template <class Type>
struct TypeTag {
    using type = Type;
};

template <class Body>
FASTDC_INLINE void choose_activation(Activation activation, const Body& body) {
    switch (activation) {
        case Activation::kRelu:
            return body(Constant<Activation, Activation::kRelu>{});
        case Activation::kLeakyRelu:
            return body(Constant<Activation, Activation::kLeakyRelu>{});
        case Activation::kSigmoid:
            return body(Constant<Activation, Activation::kSigmoid>{});
        case Activation::kSwish:
            return body(Constant<Activation, Activation::kSwish>{});
    }
}

template <class Body>
FASTDC_INLINE void choose_pooling(Pooling pooling, const Body& body) {
    switch (pooling) {
        case Pooling::kAverage:
            return body(Constant<Pooling, Pooling::kAverage>{});
        case Pooling::kMax:
            return body(Constant<Pooling, Pooling::kMax>{});
        case Pooling::kNone:
            return body(Constant<Pooling, Pooling::kNone>{});
    }
}

template <class Body>
FASTDC_INLINE void choose_affine(Norm norm, const Body& body) {
    switch (norm) {
        case Norm::kInstance:
        case Norm::kGroup:
            return body(Constant<Affine, Affine::kMoving>{});
        case Norm::kBatch:
        case Norm::kNone:
            return body(Constant<Affine, Affine::kFixed>{});
        case Norm::kLayer:
            return body(Constant<Affine, Affine::kElement>{});
    }
}

// The widest vectors that divide the channels.
template <class T, class Body>
FASTDC_INLINE void choose_vector(int64_t channels, const Body& body) {
    if constexpr (kWide<T> != kLanes<T>) {
        if (channels % kWide<T> == 0) return body(TypeTag<Wide<T>>{});
    }
    return body(TypeTag<Lanes<T>>{});
}

template <class T, class Body>
FASTDC_INLINE void choose_block(const BlockShape& shape, const Body& body) {
    choose_vector<T>(shape.channels, [&](auto vector) {
        choose_affine(shape.norm, [&](auto affine) {
            choose_activation(shape.activation, [&](auto activation) {
                choose_pooling(shape.pooling, [&](auto pooling) { body(vector, affine, activation, pooling); });
            });
        });
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// The four functions
// ---------------------------------------------------------------------------------------------------------------------

// p [H', W', C] and stats [stats_size]. frozen_mean and frozen_var [C] are of Norm::kBatch, else unused.
template <class T>
void forward(const BlockShape& shape, const T* z, const T* gamma, const T* beta, const T* frozen_mean,
             const T* frozen_var, T* p, T* stats) {
    choose_block<T>(shape, [&](auto vector, auto affine, auto activation, auto pooling) {
        using Vector = typename decltype(vector)::type;
        using Map = Primal<T, Vector, decltype(activation)::value, reading(decltype(affine)::value)>;
        constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
        fill_stats<T, Vector>(shape, z, gamma, beta, frozen_mean, frozen_var, stats);
        walk<decltype(pooling)::value, false, lanes>(shape, ForwardPass<T, Map>{Map(shape, z, gamma, beta, stats), p});
    });
}

// gz [H, W, C] from gp [H', W', C]; adds to ggamma and gbeta (each [affine_size] or null). gz may be z.
// scratch [backward_scratch_size].
template <class T>
void backward(const BlockShape& shape, const T* z, const T* gamma, const T* beta, const T* stats, const T* gp, T* gz,
              T* ggamma, T* gbeta, T* scratch) {
    choose_block<T>(shape, [&](auto vector, auto affine, auto activation, auto pooling) {
        using Vector = typename decltype(vector)::type;
        using Map = Primal<T, Vector, decltype(activation)::value, decltype(affine)::value>;
        constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
        if (Map::affine != Affine::kFixed || (shape.norm == Norm::kBatch && (ggamma || gbeta))) {
            using Read = Primal<T, Vector, Map::activation, reading(Map::affine)>;
            const Read read(shape, z, gamma, beta, stats);
            clear(scratch, 2 * shape.channels);
            walk<decltype(pooling)::value, false, lanes>(shape,
                                                         BackwardSumsPass<T, Read>{read, gp, scratch, ggamma, gbeta});
            backward_coefficients(shape, gamma, stats, ggamma, gbeta, scratch);
        }
        walk<decltype(pooling)::value, true, lanes>(
            shape, BackwardPass<T, Map>{Map(shape, z, gamma, beta, stats), gp, scratch, gz});
    });
}

// pdot [H', W', C] and tangent_stats [tangent_stats_size], along zdot [H, W, C], gammadot and betadot ([affine_size] or
// null).
template <class T>
void forward_tangent(const BlockShape& shape, const T* z, const T* zdot, const T* gamma, const T* beta,
                     const T* gammadot, const T* betadot, const T* stats, T* pdot, T* tangent_stats) {
    choose_block<T>(shape, [&](auto vector, auto affine, auto activation, auto pooling) {
        using Vector = typename decltype(vector)::type;
        using Map = Primal<T, Vector, decltype(activation)::value, reading(decltype(affine)::value)>;
        constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
        tangent_coefficients<T, Vector>(shape, z, zdot, gammadot, betadot, stats, tangent_stats);
        const Tangent<T, Map> tangent{zdot, tangent_stats, gammadot, betadot};
        walk<decltype(pooling)::value, false, lanes>(
            shape, ForwardTangentPass<T, Map>{Map(shape, z, gamma, beta, stats), tangent, pdot});
    });
}

// gz as backward and gzdot [H, W, C], its derivative along all of forward_tangent's and gpdot [H', W', C]. gz may be z
// and gzdot may be zdot. scratch [backward_tangent_scratch_size].
template <class T>
void backward_tangent(const BlockShape& shape, const T* z, const T* zdot, const T* gamma, const T* beta,
                      const T* gammadot, const T* betadot, const T* stats, const T* tangent_stats, const T* gp,
                      const T* gpdot, T* gz, T* gzdot, T* scratch) {
    choose_block<T>(shape, [&](auto vector, auto affine, auto activation, auto pooling) {
        using Vector = typename decltype(vector)::type;
        using Map = Primal<T, Vector, decltype(activation)::value, decltype(affine)::value>;
        constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
        const Tangent<T, Map> tangent{zdot, tangent_stats, gammadot, betadot};
        const BackwardTangentWindow<T, Map> at{Map(shape, z, gamma, beta, stats), tangent, gp, gpdot};
        if constexpr (Map::affine != Affine::kFixed) {
            clear(scratch, 4 * shape.channels);
            walk<decltype(pooling)::value, false, lanes>(shape, BackwardTangentSumsPass<T, Map>{at, scratch});
            backward_tangent_coefficients(shape, gamma, gammadot, stats, tangent_stats, scratch);
        }
        walk<decltype(pooling)::value, true, lanes>(shape, BackwardTangentPass<T, Map>{at, scratch, gz, gzdot});
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Layer norm's parameters between torch's order and the map's
// ---------------------------------------------------------------------------------------------------------------------

// [C, positions] to [positions, C]: once per step, where affine_channels_last then serves all images.
template <class T>
void to_channels_last(const T* from, int64_t channels, int64_t positions, T* to) {
    for (int64_t first = 0; first < channels; first += 8) {  // 8 rows are read in order, and lines of `to` filled
        for (int64_t at = 0; at < positions; ++at) {
            for (int64_t c = first; c < first + 8; ++c) to[at * channels + c] = from[c * positions + at];
        }
    }
}

// Adds [positions, C] to [C, positions].
template <class T>
void add_from_channels_last(const T* from, int64_t channels, int64_t positions, T* to) {
    for (int64_t first = 0; first < channels; first += 8) {
        for (int64_t at = 0; at < positions; ++at) {
            for (int64_t c = first; c < first + 8; ++c) to[c * positions + at] += from[at * channels + c];
        }
    }
}

}  // namespace
}  // namespace fastdc
