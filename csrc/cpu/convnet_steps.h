// The steps of a pass through the ConvNet, on a group of images: of the images, a convolution, a norm with what follows
// it, and the loss, forward and back.
//
// Included by files that are compiled once per instruction set, hence without external linkage (see instruction_set.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/convnet.h"
#include "cpu/convnet_memory.h"
#include "cpu/stopping.h"

namespace fastdc {
namespace {

// The image with a frame of zeros as wide as the first convolution's padding.
template <class T>
void pad_image(const ConvNetPlan& plan, const T* image, T* padded) {
    const int64_t frame = plan.padding[0], row = plan.width + 2 * frame;
    for (int64_t c = 0; c < plan.channels; ++c) {
        for (int64_t y = -frame; y < plan.height + frame; ++y, padded += row) {
            const bool inside = y >= 0 && y < plan.height;
            for (int64_t x = 0; x < row; ++x) padded[x] = T(0);
            if (inside) std::memcpy(padded + frame, image + (c * plan.height + y) * plan.width, sizeof(T) * plan.width);
        }
    }
}

// Calls body(first image, number of images) for groups of nearly the same size, with a stop_point before each.
template <class T, class Body>
void for_groups(const ConvNetPlan& plan, const Shapes& shapes, int64_t count, Body body) {
    const int64_t most = most_together<T>(plan, shapes), groups = (count + most - 1) / most;
    for (int64_t g = 0; g < groups; ++g) {
        stop_point();
        body(g * count / groups, (g + 1) * count / groups - g * count / groups);
    }
}

// Elements of the maps of `count` images, group by group.
template <class T>
int64_t group_maps_size(const ConvNetPlan& plan, int64_t count, Gradients where) {
    const Shapes shapes(plan);
    Arena<T> kept{nullptr};
    for_groups<T>(plan, shapes, count, [&](int64_t, int64_t group) { Maps<T>(plan, shapes, group, kept, where); });
    return kept.used;
}

template <class T>
void add_to(const T* from, int64_t count, T* to) {
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

// What block 0 normalises, of one padded image.
template <class T>
void first_map(const Weights<T>& weights, const T* padded, T* out) {
    first_conv_forward(weights.shapes.first_convolution(weights.plan.channels), padded,
                       static_cast<const T*>(weights.packed.forward[0]), weights.bias(0), out);
}

// An image [channels, pixels], and [pixels, channels].
template <class T>
void turn_image(const ConvNetPlan& plan, const T* image, T* turned) {
    const int64_t pixels = plan.height * plan.width, channels = plan.channels;
    for (int64_t c = 0; c < channels; ++c) {
        for (int64_t at = 0; at < pixels; ++at) turned[at * channels + c] = image[c * pixels + at];
    }
}
template <class T>
void turn_back(const ConvNetPlan& plan, const T* turned, T* image) {
    const int64_t pixels = plan.height * plan.width, channels = plan.channels;
    for (int64_t c = 0; c < channels; ++c) {
        for (int64_t at = 0; at < pixels; ++at) image[c * pixels + at] = turned[at * channels + c];
    }
}

// What the norm of block l reads of a map and of weights, or of their tangents.
template <class T>
NormInput<T> norm_input(const Weights<T>& weights, int64_t l, const T* normed) {
    return {normed, weights.scale(l), weights.shift(l)};
}

// Through the windows after block l, if it has any: from what they pool of an image, or its tangent in `along`.
template <class T>
void windows_forward(const Weights<T>& weights, int64_t l, int64_t image, const Maps<T>& maps, const Maps<T>& along) {
    if (!weights.shapes.has_windows(l)) return;
    const WindowShape& shape = weights.shapes.windows[l];
    const int64_t under = image * shape.in_size();
    pool_windows<T>(shape, maps.under_windows[l] + under, along.under_windows[l] + under,
                    along.given(weights.plan, l) + image * shape.out_size());
}

// The way back, of all images of a group: from the gradient by what block l gives, or its tangent.
template <class T>
void windows_backward(const Weights<T>& weights, int64_t l, int64_t count, const Maps<T>& maps, const Maps<T>& along) {
    if (!weights.shapes.has_windows(l)) return;
    const WindowShape& shape = weights.shapes.windows[l];
    for (int64_t i = 0; i < count; ++i) {
        const int64_t under = i * shape.in_size();
        spread_windows<T>(shape, maps.under_windows[l] + under,
                          along.given_gradient(weights.plan, l) + i * shape.out_size(),
                          along.under_windows_gradient[l] + under);
    }
}

template <class T>
void block_forward(const Weights<T>& weights, int64_t l, int64_t image, const T* normed, const Maps<T>& maps) {
    const BlockShape& block = weights.shapes.block[l];
    forward(block, norm_input(weights, l, normed), static_cast<const T*>(weights.plan.mean[l]),
            static_cast<const T*>(weights.plan.variance[l]), maps.output(weights.plan, l) + image * pooled_size(block),
            maps.statistics[l] + image * stats_size(block));
    windows_forward(weights, l, image, maps, maps);
}

// The map of block l, which keeps it, out of what its convolution reads.
template <class T>
void convolution_forward(const Weights<T>& weights, int64_t l, int64_t count, const GradientSpace<T>& space,
                         const Maps<T>& maps) {
    if (weights.shapes.route[l] == Route::kWinograd) {
        const WinogradShape shape = weights.shapes.convolution(l, count);
        transform_input<T>(shape, maps.input[l], space.transformed[l]);
        multiply<T>(shape.tiles(), shape.in_channels, shape.out_channels, space.transformed[l],
                    weights.packed.forward[l], space.products);
        transform_output<T>(shape, space.products, weights.bias(l), maps.normed[l]);
    } else {
        const PatchTerm<T> term = {maps.input[l], weights.packed.forward[l]};
        patch_forward<T>(weights.shapes.patch_convolution(l, count), &term, 1, weights.bias(l), space.patches,
                         maps.normed[l]);
    }
}

template <class T>
void add_bias_gradient(const BlockShape& block, const T* gz, T* bias) {
    if (block.norm == Norm::kInstance) return;  // it is zero: the norm takes away what a bias adds
    for (int64_t at = 0; at < block.height * block.width; ++at) {
        for (int64_t c = 0; c < block.channels; ++c) bias[c] += gz[at * block.channels + c];
    }
}

// Where the i-th image of a run lies.
template <class T>
int64_t place_of(const ImageRun<T>& run, int64_t i) {
    return run.index ? run.index[i] : i;
}

// The gradients by the logits of a group of images of a run.
template <class T>
void logits_gradient(const Weights<T>& weights, const ImageRun<T>& run, const Distilled<T>& distilled, int64_t begin,
                     int64_t group, const GradientSpace<T>& space, const Maps<T>& maps) {
    const ConvNetPlan& plan = weights.plan;
    const auto place = [&](int64_t i) { return place_of(run, begin + i); };
    if (run.labels.shares) {
        for (int64_t i = 0; i < group; ++i) {
            soft_loss_gradient<T>(plan.classes, maps.logits + i * plan.classes,
                                  run.labels.shares + place(i) * plan.classes, run.scale,
                                  maps.logits_gradient + i * plan.classes);
        }
    } else {
        for (int64_t i = 0; i < group; ++i) space.labels[i] = run.labels.classes[run.index ? place(i) : 0];
        loss_gradient<T>(group, plan.classes, maps.logits, space.labels, run.scale, maps.logits_gradient);
    }
    for (int64_t i = 0; i < group && distilled.shares; ++i) {
        add_distillation_gradient(distilled.groups, distilled.classes, distilled.temperature,
                                  maps.logits + i * plan.classes, distilled.shares + place(i) * distilled.kept,
                                  run.scale, maps.logits_gradient + i * plan.classes);
    }
}

// gz, the gradient by what block l normalises; adds to the sums, which may be null.
template <class T>
void block_backward(const Weights<T>& weights, int64_t l, int64_t image, const T* normed, const Maps<T>& maps,
                    const Sums<T>* sums, T* gz, T* scratch) {
    const BlockShape& block = weights.shapes.block[l];
    backward<T>(block, norm_input(weights, l, normed), maps.statistics[l] + image * stats_size(block),
                maps.output_gradient(weights.plan, l) + image * pooled_size(block), gz, sums ? sums->gamma[l] : nullptr,
                sums ? sums->beta[l] : nullptr, scratch);
    if (sums && weights.plan.bias[l] >= 0) add_bias_gradient<T>(block, gz, sums->bias[l]);
}

// From the gradients by the logits to those by what the last block has pooled.
template <class T>
void classifier_backward(const Weights<T>& weights, int64_t count, const Maps<T>& maps) {
    linear_input_gradient<T>(linear_shape(weights.plan, weights.shapes, count), maps.logits_gradient,
                             weights.packed.linear, Write::kOver, maps.last_gradient);
    windows_backward(weights, weights.plan.depth - 1, count, maps, maps);
}

// From gz, the gradients by the map of block l, to those by what its convolution reads, and by its weights: each where
// it is wanted. space.transformed[l] holds what Winograd's convolution has read.
template <class T>
void convolution_backward(const Weights<T>& weights, int64_t l, int64_t count, const Sums<T>* sums,
                          const GradientSpace<T>& space, const Maps<T>& maps, const T* gz, T* input_gradient) {
    if (weights.shapes.route[l] == Route::kWinograd) {
        const WinogradShape shape = weights.shapes.convolution(l, count);
        const int64_t rows = shape.tiles(), in = shape.in_channels, out = shape.out_channels;
        transform_output_adjoint<T>(shape, gz, space.products);
        if (sums) accumulate_weight_products<T>(rows, in, out, space.transformed[l], space.products, sums->weight[l]);
        multiply<T>(rows, out, in, space.products, weights.packed.backward[l], space.gradients);
        transform_input_adjoint<T>(shape, space.gradients, input_gradient);
    } else {
        const PatchShape shape = weights.shapes.patch_convolution(l, count);
        const PatchTerm<T> term = {gz, weights.packed.backward[l]};
        if (sums) patch_weight_gradient<T>(shape, maps.input[l], gz, space.patches, sums->weight[l]);
        if (input_gradient) patch_input_gradient<T>(shape, &term, 1, space.patches, input_gradient);
    }
}

}  // namespace
}  // namespace fastdc
