// Activations and their derivatives on registers: act(y), its slope, and what the tangent of backward needs.
//
// Included by files that are compiled once per instruction set, hence without external linkage (see instruction_set.h).
#pragma once

#include <cstdint>

#include "block_shape.h"
#include "vector.h"

namespace fastdc {
namespace {

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
    static FASTDC_INLINE Vector less_one(Vector x) {  // Cephes expf
        Vector p = x * 1.9875691500e-4f + 1.3981999507e-3f;
        p = p * x + 8.3334519073e-3f;
        p = p * x + 4.1665795894e-2f;
        p = p * x + 1.6666665459e-1f;
        p = p * x + 5.0000001201e-1f;
        return p * (x * x) + x;
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
    static FASTDC_INLINE Vector less_one(Vector x) {  // Taylor: the next term is below 5e-18 for |x| <= log(2) / 2
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
        return p * (x * x) + x;
    }
};

// exp(x) = (1 + rest) power for |x| up to kLimit and at the limit beyond; NaN for NaN.
template <class T, class Vector>
struct Power {
    Vector rest, power;
    explicit FASTDC_INLINE Power(Vector x) {
        using Table = Exponential<T>;
        using Bits = typename VectorOf<typename Table::Bits, static_cast<int>(sizeof(Vector) / sizeof(T))>::type;
        x = choose(x > Table::kLimit, fill<Vector>(Table::kLimit), x);
        x = choose(x < -Table::kLimit, fill<Vector>(-Table::kLimit), x);
        const Vector rounded = x * static_cast<T>(1.44269504088896340736) + Table::kRound;
        const Vector k = rounded - Table::kRound;
        rest = Table::template less_one<Vector>((x - k * Table::kLog2High) - k * Table::kLog2Low);
        // The low bits of `rounded` are k in two's complement; the shift drops the others. NaN survives in the rest.
        power = (Vector)(((Bits)rounded + Table::kBias) << Table::kMantissa);
    }
};

template <class T, class Vector>
FASTDC_INLINE Vector exponential(Vector x) {
    const Power<T, Vector> e(x);
    return (e.rest + T(1)) * e.power;
}

// exp(x) - 1 without its cancellation.
template <class T, class Vector>
FASTDC_INLINE Vector exponential_less_one(Vector x) {
    const Power<T, Vector> e(x);
    return e.rest * e.power + (e.power - T(1));
}

// An activation at y: its value, and products with its first two derivatives, all as torch has them at kinks and at
// NaN. The second argument is the slope of a leaky one.
template <class T, class Vector, Activation activation>
struct Activated;

template <class T, class Vector>
struct Activated<T, Vector, Activation::kRelu> {
    Vector y;
    explicit FASTDC_INLINE Activated(Vector at, T) : y(at) {}
    FASTDC_INLINE Vector value() const { return choose(y < T(0), Vector{}, y); }
    FASTDC_INLINE Vector times_slope(Vector g) const { return choose(y <= T(0), Vector{}, g); }
    FASTDC_INLINE Vector times_curvature(Vector) const { return Vector{}; }
};

template <class T, class Vector>
struct Activated<T, Vector, Activation::kLeakyRelu> {
    Vector y;
    T slope;
    explicit FASTDC_INLINE Activated(Vector at, T slope_) : y(at), slope(slope_) {}
    FASTDC_INLINE Vector value() const { return choose(y > T(0), y, y * slope); }
    FASTDC_INLINE Vector times_slope(Vector g) const { return choose(y > T(0), g, g * slope); }
    FASTDC_INLINE Vector times_curvature(Vector) const { return Vector{}; }
};

template <class T, class Vector>
struct Activated<T, Vector, Activation::kSigmoid> {
    Vector a;  // sigmoid(y)
    Vector b;  // 1 - a, without its cancellation
    explicit FASTDC_INLINE Activated(Vector y, T) {
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
struct Activated<T, Vector, Activation::kTanh> {
    Vector a;  // tanh(y)
    Vector b;  // 1 - a a, without its cancellation
    explicit FASTDC_INLINE Activated(Vector y, T) {
        const Vector e = exponential_less_one<T>(choose(y < T(0), y, -y) * T(2)), sum = e + T(2);
        a = e / sum;
        a = choose(y < T(0), a, -a);
        b = (e + T(1)) * T(4) / (sum * sum);
    }
    FASTDC_INLINE Vector value() const { return a; }
    FASTDC_INLINE Vector times_slope(Vector g) const { return b * g; }
    FASTDC_INLINE Vector times_curvature(Vector g) const { return a * b * T(-2) * g; }
};

template <class T, class Vector>
struct Activated<T, Vector, Activation::kSwish> {
    Vector y;
    Activated<T, Vector, Activation::kSigmoid> sigmoid;
    explicit FASTDC_INLINE Activated(Vector at, T slope) : y(at), sigmoid(at, slope) {}
    FASTDC_INLINE Vector value() const { return y * sigmoid.a; }
    FASTDC_INLINE Vector times_slope(Vector g) const { return (y * sigmoid.b + T(1)) * sigmoid.a * g; }
    FASTDC_INLINE Vector times_curvature(Vector g) const {
        return sigmoid.a * sigmoid.b * (y * (sigmoid.b - sigmoid.a) + T(2)) * g;
    }
};

constexpr bool is_curved(Activation activation) {
    return activation == Activation::kSigmoid || activation == Activation::kTanh || activation == Activation::kSwish;
}

}  // namespace
}  // namespace fastdc
