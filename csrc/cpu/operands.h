// What the operands of a product of matrices hold, and what the product makes of it.
//
// An element of an operand is one number and goes into products as it is. Not so for floats where FASTDC_BFLOAT16 is
// defined, which takes AVX-512 BF16: two numbers that follow one another in the sum, each rounded to the nearest
// bfloat16, make one element, a pair, the first in the lower half of its bits. The product of two pairs is the sum of
// two products, added up in float. Subnormal numbers count as zero, as this processor has it.
#pragma once

#include <cstdint>
#include <type_traits>

#include "vector.h"

#if defined(FASTDC_BFLOAT16)
#include <immintrin.h>
#endif

namespace fastdc {
namespace {

#if defined(FASTDC_BFLOAT16)

template <class T>
constexpr bool kRounded = std::is_same_v<T, float>;

// Pairs of numbers, lane by lane.
FASTDC_INLINE VectorOf<float, 16>::type pairs(VectorOf<float, 16>::type first, VectorOf<float, 16>::type second) {
    typedef VectorOf<uint16_t, 32>::type Halves;
    const Halves halves = (Halves)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    return (VectorOf<float, 16>::type)__builtin_shufflevector(halves, halves, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21,
                                                              6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13,
                                                              29, 14, 30, 15, 31);
}
FASTDC_INLINE VectorOf<float, 8>::type pairs(VectorOf<float, 8>::type first, VectorOf<float, 8>::type second) {
    typedef VectorOf<uint16_t, 16>::type Halves;
    const Halves halves = (Halves)_mm256_cvtne2ps_pbh((__m256)second, (__m256)first);
    return (VectorOf<float, 8>::type)__builtin_shufflevector(halves, halves, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6,
                                                             14, 7, 15);
}
FASTDC_INLINE VectorOf<float, 4>::type pairs(VectorOf<float, 4>::type first, VectorOf<float, 4>::type second) {
    const auto both = pairs(__builtin_shufflevector(first, first, 0, 1, 2, 3, 0, 1, 2, 3),
                            __builtin_shufflevector(second, second, 0, 1, 2, 3, 0, 1, 2, 3));
    return __builtin_shufflevector(both, both, 0, 1, 2, 3);
}
FASTDC_INLINE float pairs(float first, float second) {
    typedef VectorOf<float, 8>::type Vector;
    return pairs(Vector{first}, Vector{second})[0];
}

// The numbers of pairs, lane by lane.
template <class Number>
FASTDC_INLINE Number first_of_pairs(Number pairs) {
    typedef uint32_t Bits __attribute__((vector_size(sizeof(Number))));
    const Bits bits = load<Bits>(&pairs) << 16;
    return load<Number>(&bits);
}
template <class Number>
FASTDC_INLINE Number second_of_pairs(Number pairs) {
    typedef uint32_t Bits __attribute__((vector_size(sizeof(Number))));
    const Bits bits = load<Bits>(&pairs) & 0xffff0000u;
    return load<Number>(&bits);
}

// Four pairs of eight neighbours.
FASTDC_INLINE void store_pairs(float* to, VectorOf<float, 8>::type neighbours) {
    const auto halves = _mm256_cvtneps_pbh((__m256)neighbours);
    std::memcpy(to, &halves, sizeof halves);
}

FASTDC_INLINE Wide<float> product_of_pairs(float element, Wide<float> row, Wide<float> sum) {
    return (Wide<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(element), (__m512bh)row);
}

#else

template <class T>
constexpr bool kRounded = false;

#endif

// Numbers in an element.
template <class T>
constexpr int64_t kTerms = kRounded<T> ? 2 : 1;

// Elements that hold so many numbers.
template <class T>
constexpr int64_t elements_of(int64_t numbers) {
    return (numbers + kTerms<T> - 1) / kTerms<T>;
}

// sum += element * row, lane by lane.
template <class T>
FASTDC_INLINE void add_product(T element, Wide<T> row, Wide<T>& sum) {
    if constexpr (kRounded<T>) {
        sum = product_of_pairs(element, row, sum);
    } else {
        sum += element * row;
    }
}

// Puts number p of a sum into its element, or into that of each lane. They come in any order, and are even in number.
template <class Number, class T>
FASTDC_INLINE void put_number([[maybe_unused]] int64_t p, Number number, T* element) {
    if constexpr (kRounded<T>) {
        const Number there = load<Number>(element);
        number = p % 2 ? pairs(first_of_pairs(there), number) : pairs(number, second_of_pairs(there));
    }
    store(element, number);
}

// Elements of `rows` rows or more, `stride` apart, lane by lane; a row that is not there counts as zero.
template <class Vector, class T>
FASTDC_INLINE Vector element_of_rows(const T* from, [[maybe_unused]] int64_t stride, [[maybe_unused]] int64_t rows) {
    if constexpr (kRounded<T>) {
        return pairs(load<Vector>(from), rows > 1 ? load<Vector>(from + stride) : Vector{});
    } else {
        return load<Vector>(from);
    }
}

}  // namespace
}  // namespace fastdc
