// The metrics: their names, and the arithmetic of one row or one element, shared by the CPU and the CUDA kernel.
//
// With a a row of the synthetic gradient, b the same row of the real one, s = |a| |b| + e and e = 1e-6:
//
//     cosine:  d = 1 - <a, b> / s      dd/da = (<a, b> |b| / (|a| s^2)) a - (1 / s) b      (first term 0 where |a| = 0)
//     mse:     d = sum of (a - b)^2    dd/da = 2 (a - b)
//     l1:      d = sum of |a - b|      dd/da = sign(a - b), 0 where they are equal
//
// Sums and coefficients are doubles whatever the elements are: the square of a float never overflows a double, so that
// a result that float can hold is never lost on the way, and its error is the rounding to float at the end.
//
// Everything here has internal linkage: objects compiled for different instruction sets must not share a definition.
#pragma once

#include <cmath>
#include <cstddef>
#include <utility>

#include "names.h"

#if defined(__CUDACC__)
#define FASTDC_ROW static __host__ __device__ __forceinline__
#else
#define FASTDC_ROW static inline __attribute__((always_inline))
#endif

namespace fastdc {

enum class Metric : int { layerwise_cosine, cosine, mse, l1 };

constexpr Named<Metric> kMetrics[] = {
    {"layerwise_cosine", Metric::layerwise_cosine},
    {"cosine", Metric::cosine},
    {"mse", Metric::mse},
    {"l1", Metric::l1},
};

constexpr std::size_t kMetricCount = sizeof kMetrics / sizeof *kMetrics;
using EachMetric = std::make_index_sequence<kMetricCount>;

// Whether rows make no difference to it: every element adds its own part to the distance, by element_result.
template <Metric metric>
constexpr bool kIsByElement = metric != Metric::layerwise_cosine && metric != Metric::cosine;

constexpr double kEpsilon = 1e-6;

// What one pass over a row, or over all rows of a class (metric cosine), adds up.
struct RowSums {
    double dot;        // <a, b>
    double synthetic;  // <a, a>
    double real;       // <b, b>
};

// The distance of a row by its cosine, and its cotangent: along * a - across * b.
struct RowResult {
    double distance;
    double along;
    double across;
};

FASTDC_ROW RowResult cosine_result(const RowSums& sums) {
    const double norm_synthetic = std::sqrt(sums.synthetic);
    const double norm_real = std::sqrt(sums.real);
    const double scale = norm_synthetic * norm_real + kEpsilon;
    const double cosine = sums.dot / scale;
    const double along = norm_synthetic > 0 ? cosine * (norm_real / scale) / norm_synthetic : 0.0;
    return {1.0 - cosine, along, 1.0 / scale};
}

// Of an element of such a metric: what it adds to the distance, and its cotangent. Value is a double, or several.
template <class Value>
struct ElementResult {
    Value distance;
    Value cotangent;
};

FASTDC_ROW double sign_of(double x) {
    return x > 0 ? 1.0 : x < 0 ? -1.0 : x;  // a NaN stays one
}
FASTDC_ROW double absolute_of(double x) {
    return std::fabs(x);
}

template <Metric metric, class Value>
FASTDC_ROW ElementResult<Value> element_result(const Value& difference) {
    static_assert(kIsByElement<metric>, "a metric by rows");
    if constexpr (metric == Metric::mse) {
        return {difference * difference, 2.0 * difference};
    } else {
        static_assert(metric == Metric::l1, "a metric without arithmetic");
        return {absolute_of(difference), sign_of(difference)};
    }
}

}  // namespace fastdc
