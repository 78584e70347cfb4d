// The gradient of one batch of a ConvNet whose batch norms take the statistics of that batch.
//
// All images go through one block before any goes through the next, as each norm waits for the statistics of all maps.
// Steps, each of which takes the parts of a batch in any order, and what is done between two of them:
//     batch_forward(l), l = 0 to depth:  norm, activation and pooling of block l - 1, then the convolution of block l
//     with
//                                        the moments of its maps; at depth the loss, back to the sums of block depth -
//                                        1
//         batch_statistics(l)            of all maps, and the running ones move towards them
//     batch_coefficients(l)              what goes back through these statistics, from the sums of block l
//     batch_backward(l), l = depth - 1 to 0:  back through block l, then the sums of block l - 1
//
// To a norm, a batch is one map of one image: that of all images, one below the other. Its derivatives are those of an
// instance norm of that map. Sums are taken image by image, and added in the order of images.
//
// Included by files that are compiled once per instruction set, hence without external linkage (see instruction_set.h).
#pragma once

#include <cstdint>

#include "cpu/convnet.h"
#include "cpu/convnet_memory.h"
#include "cpu/convnet_steps.h"
#include "cpu/norm_act_pool.h"

namespace fastdc {
namespace {

// The maps of `count` images of a batch as one map.
inline BlockShape one_below_the_other(BlockShape block, int64_t count) {
    block.norm = Norm::kInstance;
    block.height *= count;
    return block;
}

template <class T>
int64_t batch_maps_size(const ConvNetPlan& plan, int64_t count) {
    return group_maps_size<T>(plan, count, Gradients::kInPlace);
}

// Calls body(first image, number of images, their maps, image) for the groups of a part; image(i) points to the i-th.
template <class T, class Body>
void over_groups(const ConvNetPlan& plan, const Shapes& shapes, const BatchPart<T>& part, const Body& body) {
    Arena<T> kept{part.maps};
    const int64_t image_size = plan.channels * plan.height * plan.width;
    for_groups<T>(plan, shapes, part.run.count, [&](int64_t begin, int64_t group) {
        const Maps<T> maps(plan, shapes, group, kept, Gradients::kInPlace);
        body(begin, group, maps,
             [&](int64_t i) { return part.run.images + place_of(part.run, begin + i) * image_size; });
    });
}

// What block l normalises, of the i-th image of a group: as it is kept, or computed anew from the image.
template <class T>
T* normed_of(const Weights<T>& weights, int64_t l, int64_t i, const T* image, const GradientSpace<T>& space,
             const Maps<T>& maps) {
    if (maps.normed[l]) return maps.normed[l] + i * map_size(weights.shapes.block[l]);
    pad_image(weights.plan, image, space.padded);
    first_map<T>(weights, space.padded, space.first);
    return space.first;
}

// Mean and squares (sum of squared deviations) of one map, to `to` [2, C].
template <class T>
void moments_of(const BlockShape& block, const T* normed, T* to) {
    choose_vector<T>(block.channels, [&](auto vector) {
        moments<T, typename decltype(vector)::type>(normed, block.height * block.width, block.channels, to,
                                                    to + block.channels);
    });
}

// The sums of block l that batch_coefficients asks for, of each image of a group.
template <class T, class Image>
void sums_by_image(const Weights<T>& weights, int64_t l, int64_t begin, int64_t group, Image image,
                   const GradientSpace<T>& space, const Maps<T>& maps, const BatchPart<T>& part) {
    if (!is_batch_norm(weights.plan, l)) return;
    const BlockShape& block = weights.shapes.block[l];
    for (int64_t i = 0; i < group; ++i) {
        T* sums = part.by_image + (part.first + begin + i) * 2 * block.channels;
        clear(sums, 2 * block.channels);
        const T* normed = normed_of(weights, l, i, image(i), space, maps);
        add_backward_sums<T>(block, norm_input(weights, l, normed), maps.statistics[l] + i * stats_size(block),
                             maps.output_gradient(weights.plan, l) + i * pooled_size(block), sums, nullptr, nullptr);
    }
}

// From the features of a group of images to the gradients by them.
template <class T>
void through_classifier(const Weights<T>& weights, const BatchPart<T>& part, const Distilled<T>& distilled,
                        int64_t begin, int64_t group, const Sums<T>& sums, const GradientSpace<T>& space,
                        const Maps<T>& maps) {
    const LinearShape linear = linear_shape(weights.plan, weights.shapes, group);
    linear_forward<T>(linear, maps.last, weights.packed.linear, weights.at(weights.plan.linear_bias), maps.logits);
    logits_gradient(weights, part.run, distilled, begin, group, space, maps);
    linear_weight_gradient<T>(linear, maps.logits_gradient, maps.last, sums.linear, sums.linear_bias);
    classifier_backward(weights, group, maps);
}

template <class T>
void batch_forward(const ConvNetPlan& plan, const PackedTheta<T>& theta, const BatchPart<T>& part,
                   const Distilled<T>& distilled, int64_t l, T* workspace) {
    const Shapes shapes(plan);
    const Weights<T> weights(plan, shapes, theta);
    const Sums<T> sums(plan, shapes, part.sums);
    const GradientSpace<T> space(plan, shapes, most_together<T>(plan, shapes), Gradients::kInPlace, workspace);
    over_groups(plan, shapes, part, [&](int64_t begin, int64_t group, const Maps<T>& maps, auto image) {
        for (int64_t i = 0; i < group && l > 0; ++i) {
            block_forward<T>(weights, l - 1, i, normed_of(weights, l - 1, i, image(i), space, maps), maps);
        }
        if (l == plan.depth) {
            through_classifier(weights, part, distilled, begin, group, sums, space, maps);
            return sums_by_image(weights, l - 1, begin, group, image, space, maps, part);
        }
        if (shapes.route[l] != Route::kDirect) {
            for (int64_t i = 0; i < group && l == 0; ++i) {
                turn_image(plan, image(i), maps.input[0] + i * plan.channels * plan.height * plan.width);
            }
            convolution_forward(weights, l, group, space, maps);
        }
        const BlockShape& block = shapes.block[l];
        for (int64_t i = 0; i < group && is_batch_norm(plan, l); ++i) {
            moments_of<T>(block, normed_of(weights, l, i, image(i), space, maps),
                          part.by_image + (part.first + begin + i) * 2 * block.channels);
        }
    });
}

// The statistics [C] of all maps that block l normalises; moves its running ones on, as torch does.
template <class T>
void batch_statistics(const ConvNetPlan& plan, int64_t l, const ByImage<T>& moments, T* mean, T* variance) {
    const BlockShape block = Shapes(plan).block[l];
    const int64_t channels = block.channels, positions = block.height * block.width;
    const T* end = moments.values + moments.count * 2 * channels;
    clear(mean, channels);
    clear(variance, channels);
    for (const T* of = moments.values; of < end; of += 2 * channels) {
        for (int64_t c = 0; c < channels; ++c) mean[c] += of[c];
    }
    for (int64_t c = 0; c < channels; ++c) mean[c] /= static_cast<T>(moments.count);
    for (const T* of = moments.values; of < end; of += 2 * channels) {
        for (int64_t c = 0; c < channels; ++c) {
            const T step = of[c] - mean[c];
            variance[c] += of[channels + c] + step * step * static_cast<T>(positions);
        }
    }
    const T all = static_cast<T>(moments.count * positions), momentum = static_cast<T>(plan.momentum[l]);
    T* running_mean = static_cast<T*>(plan.mean[l]);
    T* running_variance = static_cast<T*>(plan.variance[l]);
    for (int64_t c = 0; c < channels; ++c) {
        running_mean[c] = momentum * mean[c] + (T(1) - momentum) * running_mean[c];
        running_variance[c] = momentum * (variance[c] / (all - T(1))) + (T(1) - momentum) * running_variance[c];
        variance[c] /= all;
    }
}

// u and q [2, C] of block l, and after them what they are computed in [4, C]; adds the gradients of its scale and shift
// to the sums. The plan has the statistics of the batch.
template <class T>
void batch_coefficients(const ConvNetPlan& plan, const T* theta, int64_t l, const ByImage<T>& from, T* coefficients,
                        T* buffer) {
    const Shapes shapes(plan);
    const Sums<T> sums(plan, shapes, buffer);
    const BlockShape& block = shapes.block[l];
    const int64_t size = 2 * block.channels;
    const T* gamma = theta + plan.gamma[l];
    T* stats = coefficients + size;
    clear(coefficients, size);
    for (int64_t i = 0; i < from.count; ++i) add_to(from.values + i * size, size, coefficients);
    fill_stats<T, Lanes<T>>(block, static_cast<const T*>(nullptr), gamma, theta + plan.beta[l],
                            static_cast<const T*>(plan.mean[l]), static_cast<const T*>(plan.variance[l]), stats);
    backward_coefficients<T>(one_below_the_other(block, from.count), gamma, stats, sums.gamma[l], sums.beta[l],
                             coefficients);
}

template <class T>
void batch_backward(const ConvNetPlan& plan, const PackedTheta<T>& theta, const BatchPart<T>& part,
                    const T* coefficients, int64_t l, T* workspace) {
    const Shapes shapes(plan);
    const Weights<T> weights(plan, shapes, theta);
    const Sums<T> sums(plan, shapes, part.sums);
    const GradientSpace<T> space(plan, shapes, most_together<T>(plan, shapes), Gradients::kInPlace, workspace);
    const BlockShape block = shapes.block[l], batch = one_below_the_other(block, 1);
    const bool direct = shapes.route[l] == Route::kDirect;
    over_groups(plan, shapes, part, [&](int64_t begin, int64_t group, const Maps<T>& maps, auto image) {
        for (int64_t i = 0; i < group; ++i) {
            T* gz = normed_of(weights, l, i, image(i), space, maps);
            if (is_batch_norm(plan, l)) {  // no gradient of a bias, which the norm takes away
                backward_by<T>(batch, norm_input<T>(weights, l, gz), maps.statistics[l] + i * stats_size(block),
                               maps.output_gradient(plan, l) + i * pooled_size(block), coefficients, gz);
            } else {
                block_backward<T>(weights, l, i, gz, maps, &sums, gz, space.scratch);
            }
            if (direct) {
                first_conv_weight_gradient<T>(shapes.first_convolution(plan.channels), space.padded, gz,
                                              sums.weight[0]);
            }
        }
        if (!direct) {
            if (shapes.route[l] == Route::kWinograd) {
                transform_input<T>(shapes.convolution(l, group), maps.input[l], space.transformed[l]);
            }
            convolution_backward<T>(weights, l, group, &sums, space, maps, maps.normed[l],
                                    l ? maps.input_gradient[l] : nullptr);
        }
        if (l == 0) return;
        windows_backward(weights, l - 1, group, maps, maps);
        sums_by_image(weights, l - 1, begin, group, image, space, maps, part);
    });
}

}  // namespace
}  // namespace fastdc
