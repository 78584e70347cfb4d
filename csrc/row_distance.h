// The arithmetic of one row of the layer-wise distance, shared by the CPU and the CUDA kernel.
//
// With a a row of the synthetic gradient, b the same row of the real one, s = |a| |b| + e and e = 1e-6:
//
//     cosine:  d = 1 - <a, b> / s      dd/da = (<a, b> |b| / (|a| s^2)) a - (1 / s) b      (first term 0 where |a| = 0)
//     mse:     d = |a - b|^2           dd/da = 2 (a - b)
//
// Sums and coefficients are doubles whatever the elements are: the square of a float never overflows a double, so that
// a result that float can hold is never lost on the way, and its error is the rounding to float at the end.
//
// Everything here has internal linkage: objects compiled for different instruction sets must not share a definition.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define FASTDC_ROW static __host__ __device__ __forceinline__
#else
#define FASTDC_ROW static inline
#endif

namespace fastdc {

enum class Metric : int { layerwise_cosine = 0, cosine = 1, mse = 2 };

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

}  // namespace fastdc
