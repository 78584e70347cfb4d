// The layer-wise distance of every class and its cotangent, over all layers and classes, in one launch.
//
// With a and b the same row of the synthetic and of the real gradient, e = 1e-6, and the arithmetic of row_distance.h:
//
//     layerwise_cosine  distance[c] = sum over rows of 1 - <a, b> / (|a| |b| + e)
//     cosine            the same, all rows of a class joined into one
//     mse               distance[c] = sum over rows of |a - b|^2
//     l1                distance[c] = sum over the elements of all rows of |a - b|
//     cotangent[c, i] = d distance[c] / d synthetic[c, i], and 0 where i lies in no row
//
// Layout, every index and size being 64 bits wide:
//
//     synthetic, real  [C, P]     class strides in elements, element stride 1; a class may begin at any element
//     cotangent        [C, P]     contiguous, of the type of the inputs
//     distance         [C]        float for float, half and bfloat16; double for double
//     tiles            [T, 3]     offset, rows, row_length: disjoint pieces that cover [0, P). rows = 0: a stretch of
//                                 row_length elements in no row; row_length = 0: rows that have no elements
//     partial          [C, T, 3]  scratch: the sums of a tile (dot, synthetic, real), or its distance in the first
//     tickets          [C]        0 before and after each launch; launches that may overlap need their own
//
// Work: a block of 256 threads per class and tile, block = class * T + tile, so that rows of 9 and of 25,000 elements
// share one grid and no block is idle. Within a tile of layerwise_cosine, rows of up to 1024 elements are dealt round
// robin to groups of lanes: a warp each, or fewer lanes (1, 2, 4, 8, 16) for rows of up to 64; longer rows are taken by
// the whole block, one after another. The other metrics need no rows: a tile is one stretch to them. Sums are doubles,
// kept in registers and joined by shuffles, then through shared memory. The cotangent is written in a second pass,
// which reads from cache; mse and l1 need none.
//
// The block that finishes last in its class (it draws the last ticket) joins the sums of its class's tiles; with metric
// cosine, whose coefficients are known only then, it writes the cotangent of its class, too. No sum depends on the
// order in which blocks run: the same inputs at the same alignment give the same bits.
#pragma once

#include <cstdint>

extern "C" {

// Launches on `stream` of `device` and returns nullptr, or the text of the error; does not wait. `size` is P; `dtype`
// is 0 float, 1 double, 2 half, 3 bfloat16; `metric` is a fastdc::Metric. C and T are at least 1, and C * T below 2^31.
const char* fastdc_cuda_layerwise_distance(const void* synthetic, int64_t synthetic_stride, const void* real,
                                           int64_t real_stride, void* distance, void* cotangent, const int64_t* tiles,
                                           int64_t tile_count, double* partial, unsigned* tickets, int64_t classes,
                                           int64_t size, int dtype, int metric, int device, void* stream);

// Why the kernels cannot run on `device`, such as that they were compiled for other cards; nullptr where they can.
const char* fastdc_cuda_unusable(int device);

// What `metric` is called; nullptr beyond the last one.
const char* fastdc_cuda_metric_name(int metric);

// How many kernels were launched since the library was loaded.
int fastdc_cuda_launches();
}
