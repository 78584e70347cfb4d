// The shape of one ConvNet block and the sizes that follow from it; norm_act_pool.h says what its parts compute.
//
// Included by files that are compiled once per instruction set, hence without external linkage (see instruction_set.h).
#pragma once

#include <cstdint>

#include "block_parts.h"
#include "vector.h"

namespace fastdc {
namespace {

struct BlockShape {
    int64_t height;
    int64_t width;
    int64_t channels;  // a multiple of 8
    int64_t groups;    // of Norm::kGroup only: a divisor of channels
    Norm norm;
    Activation activation;
    Pooling pooling;
    double epsilon = 1e-5;  // of a norm: what is added to variances
    double slope = 0.01;    // of a leaky activation below zero: 0 or more, so that it keeps the order
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

}  // namespace
}  // namespace fastdc
