// The layer-wise distance and its cotangent over all layers and classes (formulas: row_distance.h).
//
//     distance[c]      = sum over the rows of class c                          [C]
//     cotangent[c, :]  = d distance[c] / d synthetic[c, :], 0 outside rows     [C, P]
//
// A gradient may lie in several parts, such as one for each parameter; P counts their elements one part after another.
//
// A row is read twice: once from memory for its sums, once from the cache for its cotangent; metric cosine, one row per
// class, reads memory twice. Work is cut into (class, tile) pairs that threads take in any order; each pair's sum goes
// to a place of its own and the sums are added in the order of tiles.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/instruction_set.h"
#include "row_distance.h"

namespace fastdc {

enum class Dtype : int { float32 = 0, float64 = 1, float16 = 2, bfloat16 = 3 };

constexpr Named<Dtype> kDtypes[] = {
    {"float32", Dtype::float32},
    {"float64", Dtype::float64},
    {"float16", Dtype::float16},
    {"bfloat16", Dtype::bfloat16},
};

// offset in P, rows, row_length; without rows: row_length elements that lie in no row.
struct Tile {
    int64_t offset;
    int64_t rows;
    int64_t row_length;
};

// Elements first to first + size of P.
struct GradientPart {
    int64_t first;
    int64_t size;
    const void* synthetic;     // [C, size], element stride 1
    int64_t synthetic_stride;  // elements from class to class
    const void* real;          // [C, size], element stride 1
    int64_t real_stride;
    void* cotangent;  // [C, size] contiguous
};

struct DistanceArguments {
    std::vector<GradientPart> parts;  // in the order of P
    void* distance;                   // [C] double for float64, else float
    const Tile* tiles;                // each in one part
    int64_t tile_count;
    int64_t classes;
    Dtype dtype;
    Metric metric;
};

// Throws std::invalid_argument where arguments.metric is none of Metric.
void layerwise_distance(const DistanceArguments& arguments, int threads);

// What differs between instruction sets and element types; pointers are to the first of rows * row_length, or `count`,
// elements.
struct DistanceKernels {
    // The distance summed over rows, each on its own; writes their cotangent.
    using MatchRows = double (*)(const void* synthetic, const void* real, void* cotangent, int64_t rows,
                                 int64_t row_length);
    MatchRows rows[kMetricCount];  // in the order of kMetrics; null for cosine, which joins them
    // Sums over elements that are a part of one long row, and the cotangent of such a part.
    RowSums (*sums)(const void* synthetic, const void* real, int64_t count);
    void (*write)(const void* synthetic, const void* real, void* cotangent, int64_t count, double along, double across);
};

// By Dtype.
namespace baseline {
extern const DistanceKernels distance_kernels[4];
}
namespace avx2 {
extern const DistanceKernels distance_kernels[4];
}
namespace avx512 {
extern const DistanceKernels distance_kernels[4];
}

}  // namespace fastdc
