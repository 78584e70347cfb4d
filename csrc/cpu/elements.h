// Eight elements of any type as eight doubles, and back: the loads and stores of kernels that compute in double.
//
// Eight lanes whatever the registers hold, so that the order of sums is the same for every instruction set. Included by
// files that are compiled once per instruction set, hence without external linkage (see instruction_set.h).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define FASTDC_INLINE inline __attribute__((always_inline))

namespace fastdc {
namespace {
namespace elements {  // apart from vector.h, which has the same words for registers of one type

constexpr int kLanes = 8;
#if defined(__AVX512F__)
constexpr int kRegister = 8;  // doubles in a register
#elif defined(__AVX__)
constexpr int kRegister = 4;
#else
constexpr int kRegister = 2;
#endif
constexpr int kRegisters = kLanes / kRegister;

typedef double DoubleRegister __attribute__((vector_size(8 * kRegister)));
typedef float FloatRegister __attribute__((vector_size(4 * kRegister)));
typedef float Floats __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef int32_t Flags __attribute__((vector_size(32)));
typedef uint16_t Halves __attribute__((vector_size(16)));

struct Doubles {
    DoubleRegister part[kRegisters] = {};
};

#define FASTDC_EACH_REGISTER for (int r = 0; r < kRegisters; ++r)

FASTDC_INLINE Doubles operator+(Doubles x, const Doubles& y) {
    FASTDC_EACH_REGISTER x.part[r] += y.part[r];
    return x;
}
FASTDC_INLINE Doubles operator-(Doubles x, const Doubles& y) {
    FASTDC_EACH_REGISTER x.part[r] -= y.part[r];
    return x;
}
FASTDC_INLINE Doubles operator*(Doubles x, const Doubles& y) {
    FASTDC_EACH_REGISTER x.part[r] *= y.part[r];
    return x;
}
FASTDC_INLINE Doubles operator*(double factor, Doubles x) {
    FASTDC_EACH_REGISTER x.part[r] *= factor;
    return x;
}

FASTDC_INLINE Doubles absolute_of(Doubles x) {
    FASTDC_EACH_REGISTER x.part[r] = x.part[r] < 0 ? -x.part[r] : x.part[r];
    return x;
}
// 1, -1, or x itself where it is 0 or NaN.
FASTDC_INLINE Doubles sign_of(Doubles x) {
    const DoubleRegister one = DoubleRegister{} + 1.0;
    FASTDC_EACH_REGISTER x.part[r] = x.part[r] > 0 ? one : x.part[r] < 0 ? -one : x.part[r];
    return x;
}

struct Half {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

template <class To, class From>
FASTDC_INLINE To bits_of(From value) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}

template <class Vector, class T>
FASTDC_INLINE Vector read(const T* from) {
    Vector value;
    std::memcpy(&value, from, sizeof value);  // at any alignment
    return value;
}

FASTDC_INLINE Doubles load(const double* from) {
    Doubles result;
    FASTDC_EACH_REGISTER result.part[r] = read<DoubleRegister>(from + r * kRegister);
    return result;
}

FASTDC_INLINE DoubleRegister widen_register(FloatRegister value) {
#if defined(__AVX512F__)
    // Of __builtin_convertvector GCC makes two conversions of halves, and shuffles.
    return _mm512_maskz_cvtps_pd(0xff, value);
#else
    return __builtin_convertvector(value, DoubleRegister);
#endif
}

FASTDC_INLINE Doubles load(const float* from) {
    Doubles result;
    FASTDC_EACH_REGISTER result.part[r] = widen_register(read<FloatRegister>(from + r * kRegister));
    return result;
}

FASTDC_INLINE Doubles widen(Floats value) {
    return load(reinterpret_cast<const float*>(&value));
}

FASTDC_INLINE Floats narrow(const Doubles& value) {
    Floats result;
    FASTDC_EACH_REGISTER {
        const FloatRegister part = __builtin_convertvector(value.part[r], FloatRegister);
        std::memcpy(reinterpret_cast<char*>(&result) + r * sizeof part, &part, sizeof part);
    }
    return result;
}

FASTDC_INLINE Doubles load(const BFloat16* from) {
    return widen(bits_of<Floats>(__builtin_convertvector(read<Halves>(from), Words) << 16));
}

FASTDC_INLINE Doubles load(const Half* from) {
    const Words half = __builtin_convertvector(read<Halves>(from), Words);
    // Exponent and mantissa moved into a float's places; the product sets the exponent right, for denormals as well.
    const Floats magnitude = bits_of<Floats>((half & 0x7fffu) << 13) * 0x1p112f;
    const Words infinite = bits_of<Words>((Flags)(magnitude >= 65536.0f)) & 0x7f800000u;
    return widen(bits_of<Floats>(bits_of<Words>(magnitude) | infinite | (half & 0x8000u) << 16));
}

FASTDC_INLINE void store(double* to, const Doubles& value) {
    std::memcpy(to, &value, sizeof value);
}

FASTDC_INLINE void store(float* to, const Doubles& value) {
    FASTDC_EACH_REGISTER {
        const FloatRegister part = __builtin_convertvector(value.part[r], FloatRegister);
        std::memcpy(to + r * kRegister, &part, sizeof part);
    }
}

// To the nearest bfloat16, ties to even; a NaN stays one.
FASTDC_INLINE void store(BFloat16* to, const Doubles& value) {
    const Floats narrowed = narrow(value);
    const Words bits = bits_of<Words>(narrowed);
    const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Words is_nan = bits_of<Words>((Flags)(narrowed != narrowed));
    const Halves result = __builtin_convertvector((is_nan & ((bits >> 16) | 0x40u)) | (~is_nan & rounded), Halves);
    std::memcpy(to, &result, sizeof result);
}

// To the nearest half, ties to even; beyond 65504 to infinity; a NaN stays one.
FASTDC_INLINE void store(Half* to, const Doubles& value) {
    const Floats narrowed = narrow(value);
    const Words bits = bits_of<Words>(narrowed);
    const Words sign = (bits >> 16) & 0x8000u;
    const Words magnitude = bits & 0x7fffffffu;
    // Normal halves: the exponent moved, the lost 13 bits rounded; a carry runs on into the exponent, as it should.
    const Words normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // Denormal halves: adding 0.5 lets the float adder round to multiples of 2^-24.
    const Words denormal = bits_of<Words>(bits_of<Floats>(magnitude) + 0.5f) - bits_of<Words>(Floats{} + 0.5f);
    const Words is_denormal = bits_of<Words>((Flags)(magnitude < (113u << 23)));
    const Words is_large = bits_of<Words>((Flags)(magnitude >= 0x477ff000u));  // 65520 and above
    const Words is_nan = bits_of<Words>((Flags)(magnitude > 0x7f800000u));
    Words result = (is_denormal & denormal) | (~is_denormal & normal);
    result = (is_large & 0x7c00u) | (~is_large & result);
    result = (is_nan & 0x7e00u) | (~is_nan & result) | sign;
    const Halves halves = __builtin_convertvector(result, Halves);
    std::memcpy(to, &halves, sizeof halves);
}

// The first n < 8 of eight elements; those beyond are zero and never touched in memory.
template <class T>
FASTDC_INLINE Doubles load_some(const T* from, int64_t n) {
    T padded[kLanes] = {};
    std::memcpy(padded, from, static_cast<size_t>(n) * sizeof(T));
    return load(padded);
}

template <class T>
FASTDC_INLINE void store_some(T* to, const Doubles& value, int64_t n) {
    T padded[kLanes];
    store(padded, value);
    std::memcpy(to, padded, static_cast<size_t>(n) * sizeof(T));
}

FASTDC_INLINE double sum_of(const Doubles& value) {
    double lane[kLanes];
    std::memcpy(lane, &value, sizeof lane);
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

}  // namespace elements
}  // namespace
}  // namespace fastdc
