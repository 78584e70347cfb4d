// Sums across the lanes of registers, many registers at once: shared by first_conv.h and linear_loss.h.
//
//     lane_sums<T, Vector>(from):  from [lanes][lanes]  ->  the register whose lane i holds sum_j from[i][j]
//
// Summing one register needs log2(lanes) dependent shuffles. Folding as many registers as there are lanes into each
// other takes lanes - 1 additions for all of them, and leaves the sums in order, ready for one store.
#pragma once

#include "vector.h"

namespace fastdc {
namespace {

template <class T, int lanes>
struct LaneIndex;
template <int lanes>
struct LaneIndex<float, lanes> {
    typedef int32_t type __attribute__((vector_size(lanes * sizeof(int32_t))));
};
template <int lanes>
struct LaneIndex<double, lanes> {
    typedef int64_t type __attribute__((vector_size(lanes * sizeof(int64_t))));
};

template <int... index>
struct LaneList {};
template <int count, int... index>
struct MakeLaneList : MakeLaneList<count - 1, count - 1, index...> {};
template <int... index>
struct MakeLaneList<0, index...> {
    using type = LaneList<index...>;
};

// Of the blocks of `width` lanes in a and then b: the sums of the first and second, of the third and fourth, and so on.
template <class T, class Vector, int width, int... index>
FASTDC_INLINE Vector add_lane_pairs(Vector a, Vector b, LaneList<index...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (index / width * 2 * width + index % width)...) +
           __builtin_shufflevector(a, b, (index / width * 2 * width + width + index % width)...);
#else
    typedef typename LaneIndex<T, sizeof...(index)>::type Index;
    constexpr Index even = {(index / width * 2 * width + index % width)...};
    constexpr Index odd = {(index / width * 2 * width + width + index % width)...};
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
#endif
}

// Folds `count` registers, each holding lanes / count sums of `count` lanes, recursively; depth first, so that few are
// alive at a time.
template <class T, class Vector, int count>
FASTDC_INLINE Vector fold_lanes(const T* from) {
    constexpr int lanes = sizeof(Vector) / sizeof(T);
    if constexpr (count == 1) {
        return load<Vector>(from);
    } else {
        const Vector a = fold_lanes<T, Vector, count / 2>(from);
        const Vector b = fold_lanes<T, Vector, count / 2>(from + count / 2 * lanes);
        return add_lane_pairs<T, Vector, lanes / count>(a, b, typename MakeLaneList<lanes>::type());
    }
}

template <class T, class Vector>
FASTDC_INLINE Vector lane_sums(const T* from) {
    return fold_lanes<T, Vector, sizeof(Vector) / sizeof(T)>(from);
}

}  // namespace
}  // namespace fastdc
