// Registers of the compiled ConvNet: compiler vectors of float or double, as wide as the instruction set of this object
// has them.
//
// Included by files that are compiled once per instruction set, hence without external linkage (see instruction_set.h).
#pragma once

#include <cstdint>
#include <cstring>

#define FASTDC_INLINE inline __attribute__((always_inline))
#define FASTDC_INLINE_LAMBDA __attribute__((always_inline))

namespace fastdc {
namespace {

#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;
#endif

// Whether there are 32 registers and not 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif

// Lanes of a whole register: for products, whose panels are padded to it.
template <class T>
constexpr int kWide = kRegisterBytes / static_cast<int>(sizeof(T));

// Lanes that divide any number of channels, which is a multiple of 8: for everything that walks over channels.
template <class T>
constexpr int kLanes = kWide<T> < 8 ? kWide<T> : 8;

template <class T, int lanes>
struct VectorOf {
    typedef T type __attribute__((vector_size(lanes * sizeof(T))));
};

template <class T>
using Wide = typename VectorOf<T, kWide<T>>::type;
template <class T>
using Lanes = typename VectorOf<T, kLanes<T>>::type;

template <class Type>
struct TypeTag {
    using type = Type;
};

// Calls body with a TypeTag of the widest vectors that divide a row of so many elements, a multiple of 8.
template <class T, class Body>
FASTDC_INLINE void choose_vector(int64_t elements, const Body& body) {
    if constexpr (kWide<T> != kLanes<T>) {
        if (elements % kWide<T> == 0) return body(TypeTag<Wide<T>>{});
    }
    return body(TypeTag<Lanes<T>>{});
}

// What a result does with what lies where it is written.
enum class Write { kOver, kAdd };

// Unaligned load and store.
template <class Vector, class T>
FASTDC_INLINE Vector load(const T* from) {
    Vector value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
template <class Vector, class T>
FASTDC_INLINE void store(T* to, Vector value) {
    std::memcpy(to, &value, sizeof value);
}

// Adds the sum of some registers, or of their products, to sums in memory.
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

// Rows and columns of a square that is transposed in registers of 16 bytes, which all instruction sets have.
template <class T>
constexpr int kSquare = 16 / static_cast<int>(sizeof(T));

// rows[i][j] becomes rows[j][i].
FASTDC_INLINE void transpose_square(VectorOf<float, 4>::type* rows) {
    const auto low01 = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
    const auto low23 = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
    const auto high01 = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
    const auto high23 = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
    rows[0] = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
    rows[1] = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
    rows[2] = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
    rows[3] = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
}
FASTDC_INLINE void transpose_square(VectorOf<double, 2>::type* rows) {
    const auto low = __builtin_shufflevector(rows[0], rows[1], 0, 2);
    rows[1] = __builtin_shufflevector(rows[0], rows[1], 1, 3);
    rows[0] = low;
}

}  // namespace
}  // namespace fastdc
