// Compiled once per instruction set, into namespace FASTDC_INSTRUCTION_SET: see instruction_set.h.
#include "cpu/batch_norm.h"
#include "cpu/convnet.h"
#include "cpu/convnet_memory.h"
#include "cpu/convnet_steps.h"

namespace fastdc {
namespace {

template <class T>
int64_t packed_size(const ConvNetPlan& plan) {
    return Packed<T>(plan, Shapes(plan), nullptr).size;
}

// The weights of the classifier and all norms; then those of each block, forward and backward.
int64_t pack_pieces(const ConvNetPlan& plan) {
    return 1 + 2 * plan.depth;
}

template <class T>
void pack_convolution(const ConvNetPlan& plan, const Shapes& shapes, int64_t l, const T* weight, T* forward,
                      T* backward) {
    switch (shapes.route[l]) {
        case Route::kDirect:
            if (forward) pack_first_weights(plan.channels, plan.features[0], weight, forward);
            return;
        case Route::kWinograd:
            transform_weights(plan.kernel_height[l], weight, plan.features[l - 1], plan.features[l], forward, backward);
            return;
        case Route::kPatches:
            if (forward) pack_patch_weights(shapes.patches[l], weight, forward);
            if (backward) pack_patch_weights_backward(shapes.patches[l], weight, backward);
            return;
    }
}

template <class T>
void pack(const ConvNetPlan& plan, const T* theta, int64_t piece, T* buffer) {
    const Shapes shapes(plan);
    const Packed<T> packed(plan, shapes, buffer);
    if (piece > 0) {
        const int64_t l = (piece - 1) / 2;
        pack_convolution<T>(plan, shapes, l, theta + plan.weight[l], piece % 2 ? packed.forward[l] : nullptr,
                            piece % 2 ? nullptr : packed.backward[l]);
        return;
    }
    pack_linear_weights(plan.classes, shapes.last_channels, shapes.last_height, shapes.last_width,
                        theta + plan.linear_weight, packed.linear);
    for (int64_t l = 0; l < plan.depth; ++l) {
        if (!packed.gamma[l]) continue;
        const int64_t positions = shapes.block[l].height * shapes.block[l].width;
        to_channels_last(theta + plan.gamma[l], plan.features[l], positions, packed.gamma[l]);
        to_channels_last(theta + plan.beta[l], plan.features[l], positions, packed.beta[l]);
    }
}

template <class T>
int64_t sums_size(const ConvNetPlan& plan) {
    return Sums<T>(plan, Shapes(plan), nullptr).size;
}

template <class T>
void unpack_convolution(const ConvNetPlan& plan, const Shapes& shapes, int64_t l, const T* sums, T* gradient) {
    switch (shapes.route[l]) {
        case Route::kDirect:
            unpack_first_weights(plan.channels, plan.features[0], sums, gradient);
            return;
        case Route::kWinograd:
            transform_weights_adjoint(plan.kernel_height[l], plan.features[l - 1], plan.features[l], sums, gradient);
            return;
        case Route::kPatches:
            unpack_patch_gradient(shapes.patches[l], sums, gradient);
            return;
    }
}

template <class T>
void unpack_gradient(const ConvNetPlan& plan, const T* buffer, T* gradient) {
    const Shapes shapes(plan);
    const Sums<T> sums(plan, shapes, const_cast<T*>(buffer));
    for (int64_t i = 0; i < plan.parameters; ++i) gradient[i] = T(0);
    for (int64_t l = 0; l < plan.depth; ++l) {
        const BlockShape& block = shapes.block[l];
        const int64_t channels = block.channels;
        unpack_convolution<T>(plan, shapes, l, sums.weight[l], gradient + plan.weight[l]);
        if (plan.bias[l] >= 0) add_to(static_cast<const T*>(sums.bias[l]), channels, gradient + plan.bias[l]);
        if (block.norm == Norm::kLayer) {
            const int64_t positions = block.height * block.width;
            add_from_channels_last(static_cast<const T*>(sums.gamma[l]), channels, positions, gradient + plan.gamma[l]);
            add_from_channels_last(static_cast<const T*>(sums.beta[l]), channels, positions, gradient + plan.beta[l]);
        } else if (sums.gamma[l]) {
            add_to(static_cast<const T*>(sums.gamma[l]), channels, gradient + plan.gamma[l]);
            add_to(static_cast<const T*>(sums.beta[l]), channels, gradient + plan.beta[l]);
        }
    }
    unpack_linear_gradient(plan.classes, shapes.last_channels, shapes.last_height, shapes.last_width,
                           static_cast<const T*>(sums.linear), gradient + plan.linear_weight);
    if (plan.linear_bias >= 0)
        add_to(static_cast<const T*>(sums.linear_bias), plan.classes, gradient + plan.linear_bias);
}

// Up to the logits of `count` images; image(i) points to the i-th one.
template <class T, class Image>
void forward_pass(const Weights<T>& weights, int64_t count, Image image, const GradientSpace<T>& space,
                  const Maps<T>& maps) {
    const ConvNetPlan& plan = weights.plan;
    const int64_t padded = padded_size<T>(plan, weights.shapes), pixels = plan.channels * plan.height * plan.width;
    for (int64_t i = 0; i < count; ++i) {
        if (weights.shapes.route[0] == Route::kDirect) {
            pad_image(plan, image(i), space.padded + i * padded);
            first_map(weights, space.padded + i * padded, space.first);
            block_forward(weights, 0, i, space.first, maps);
        } else {
            turn_image(plan, image(i), maps.input[0] + i * pixels);
        }
    }
    for (int64_t l = weights.shapes.first_of_maps(); l < plan.depth; ++l) {
        const int64_t size = map_size(weights.shapes.block[l]);
        convolution_forward(weights, l, count, space, maps);
        for (int64_t i = 0; i < count; ++i) block_forward(weights, l, i, maps.normed[l] + i * size, maps);
    }
    linear_forward<T>(linear_shape(plan, weights.shapes, count), maps.last, weights.packed.linear,
                      weights.at(plan.linear_bias), maps.logits);
}

// From the gradients by what block l gives to those by what its convolution reads, and by its weights: each where it is
// wanted, of a block that keeps its map.
template <class T>
void block_backward_pass(const Weights<T>& weights, int64_t l, int64_t count, const Sums<T>* sums,
                         const GradientSpace<T>& space, const Maps<T>& maps, T* input_gradient) {
    const int64_t size = map_size(weights.shapes.block[l]);
    T* gz = space.normed_gradient ? space.normed_gradient : maps.normed[l];
    for (int64_t i = 0; i < count; ++i) {
        block_backward(weights, l, i, maps.normed[l] + i * size, maps, sums, gz + i * size, space.scratch);
    }
    convolution_backward(weights, l, count, sums, space, maps, gz, input_gradient);
}

// From the gradients by the features back to the input of block 1, after forward_pass of the same images; with sums,
// which may be null, to the weights of all blocks and of the classifier.
template <class T>
void backward_pass(const Weights<T>& weights, int64_t count, const Sums<T>* sums, const GradientSpace<T>& space,
                   const Maps<T>& maps) {
    const ConvNetPlan& plan = weights.plan;
    if (sums) {
        linear_weight_gradient<T>(linear_shape(plan, weights.shapes, count), maps.logits_gradient, maps.last,
                                  sums->linear, sums->linear_bias);
    }
    for (int64_t l = plan.depth - 1; l > 0; --l) {
        block_backward_pass(weights, l, count, sums, space, maps, maps.input_gradient[l]);
        windows_backward(weights, l - 1, count, maps, maps);
    }
    if (!sums) return;
    if (weights.shapes.route[0] != Route::kDirect) {
        block_backward_pass<T>(weights, 0, count, sums, space, maps, nullptr);
        return;
    }
    const int64_t padded = padded_size<T>(plan, weights.shapes);
    const FirstShape shape = weights.shapes.first_convolution(plan.channels);
    for (int64_t i = 0; i < count; ++i) {
        first_map(weights, space.padded + i * padded, space.first);
        block_backward(weights, 0, i, space.first, maps, sums, space.first, space.scratch);
        first_conv_weight_gradient<T>(shape, space.padded + i * padded, space.first, sums->weight[0]);
    }
}

template <class T>
void add_gradient(const ConvNetPlan& plan, const PackedTheta<T>& theta, const ImageRun<T>& run,
                  const Distilled<T>& distilled, T* sums_buffer, T* record, T* workspace) {
    const Shapes shapes(plan);
    const Weights<T> weights(plan, shapes, theta);
    const Sums<T> sums(plan, shapes, sums_buffer);
    const Gradients where = record ? Gradients::kApart : Gradients::kInPlace;
    const GradientSpace<T> space(plan, shapes, most_together<T>(plan, shapes), where, workspace);
    const int64_t image_size = plan.channels * plan.height * plan.width;
    Arena<T> kept{record};
    for_groups<T>(plan, shapes, run.count, [&](int64_t begin, int64_t group) {
        const Maps<T> maps = record ? Maps<T>(plan, shapes, group, kept, where) : space.maps;
        const auto image = [&](int64_t i) { return run.images + place_of(run, begin + i) * image_size; };
        forward_pass(weights, group, image, space, maps);
        logits_gradient(weights, run, distilled, begin, group, space, maps);
        classifier_backward(weights, group, maps);
        backward_pass(weights, group, &sums, space, maps);
    });
}

int64_t output_size(const ConvNetPlan& plan, Output output) {
    return output == Output::kLogits ? plan.classes : linear_features(Shapes(plan));
}

template <class T>
void outputs(const ConvNetPlan& plan, const PackedTheta<T>& theta, const T* images, int64_t count, Output output,
             T* out, T* workspace) {
    const Shapes shapes(plan);
    const Weights<T> weights(plan, shapes, theta);
    const GradientSpace<T> space(plan, shapes, most_together<T>(plan, shapes), Gradients::kInPlace, workspace);
    const int64_t image_size = plan.channels * plan.height * plan.width, size = output_size(plan, output);
    for_groups<T>(plan, shapes, count, [&](int64_t begin, int64_t group) {
        const auto image = [&](int64_t i) { return images + (begin + i) * image_size; };
        forward_pass(weights, group, image, space, space.maps);
        T* to = out + begin * size;
        if (output == Output::kLogits) {
            std::memcpy(to, space.maps.logits, sizeof(T) * group * size);
        } else {
            for (int64_t i = 0; i < group; ++i) {
                from_channels_last<T>(space.maps.last + i * size, shapes.last_channels, size / shapes.last_channels,
                                      to + i * size);
            }
        }
    });
}

// The gradient by an image [channels, height, width] out of that by the image with its frame.
template <class T>
void cut_frame(const ConvNetPlan& plan, const FirstShape& shape, const T* framed, T* out) {
    const int64_t frame = plan.padding[0] - 1;
    for (int64_t c = 0; c < plan.channels; ++c) {
        for (int64_t y = 0; y < plan.height; ++y, out += plan.width) {
            std::memcpy(out, framed + (c * shape.height + y + frame) * shape.width + frame, sizeof(T) * plan.width);
        }
    }
}

template <class T>
void output_gradients(const ConvNetPlan& plan, const PackedTheta<T>& theta, const T* images, int64_t count,
                      Output output, const T* cotangent, T* out, T* workspace) {
    const Shapes shapes(plan);
    const Weights<T> weights(plan, shapes, theta);
    GradientSpace<T> space(plan, shapes, most_together<T>(plan, shapes), Gradients::kInPlace, workspace);
    const ImageSpace<T> image_space(plan, shapes, most_together<T>(plan, shapes), space.arena);
    const Maps<T>& maps = space.maps;
    const FirstShape shape = shapes.first_convolution(plan.channels);
    const int64_t image_size = plan.channels * plan.height * plan.width, size = output_size(plan, output);
    for_groups<T>(plan, shapes, count, [&](int64_t begin, int64_t group) {
        const auto image = [&](int64_t i) { return images + (begin + i) * image_size; };
        forward_pass(weights, group, image, space, maps);
        const T* from = cotangent + begin * size;
        if (output == Output::kLogits) {
            std::memcpy(maps.logits_gradient, from, sizeof(T) * group * size);
            classifier_backward(weights, group, maps);
        } else {
            for (int64_t i = 0; i < group; ++i) {
                to_channels_last(from + i * size, shapes.last_channels, size / shapes.last_channels,
                                 maps.last_gradient + i * size);
            }
            windows_backward(weights, plan.depth - 1, group, maps, maps);
        }
        backward_pass<T>(weights, group, nullptr, space, maps);
        if (shapes.route[0] != Route::kDirect) {
            block_backward_pass<T>(weights, 0, group, nullptr, space, maps, image_space.gradient);
            for (int64_t i = 0; i < group; ++i) {
                turn_back<T>(plan, image_space.gradient + i * image_size, out + (begin + i) * image_size);
            }
            return;
        }
        for (int64_t i = 0; i < group; ++i) {
            first_map(weights, space.padded + i * padded_size<T>(plan, shapes), space.first);
            block_backward<T>(weights, 0, i, space.first, maps, nullptr, space.first, space.scratch);
            first_conv_input_gradient<T>(shape, space.first, weights.packed.forward[0], Write::kOver, image_space.row,
                                         image_space.gradient);
            cut_frame<T>(plan, shape, image_space.gradient, out + (begin + i) * image_size);
        }
    });
}

// A product and its tangent: to = vdot U + v Udot, [36][rows, n], v [36][rows, k], plane by plane while it is in the
// cache.
template <class T>
void multiply_tangent(int64_t rows, int64_t k, int64_t n, const T* v, const T* vdot, const T* packed,
                      const T* packed_direction, T* to) {
    for (int plane = 0; plane < kWinogradProducts; ++plane) {
        multiply_plane(plane, rows, k, n, vdot, packed, to, Write::kOver);
        multiply_plane(plane, rows, k, n, v, packed_direction, to, Write::kAdd);
    }
}

// What block 0 normalises, of one image, and its tangent.
template <class T>
void first_maps(const Weights<T>& weights, const Weights<T>& along, int64_t image, const TangentSpace<T>& space) {
    const T* padded = space.padded + image * padded_size<T>(weights.plan, weights.shapes);
    first_map(weights, padded, space.first);
    first_map(along, padded, space.first_tangent);
}

template <class T>
void block_forward_tangent(const Weights<T>& weights, const Weights<T>& along, int64_t l, int64_t image,
                           const T* normed, const T* normed_tangent, const Maps<T>& maps,
                           const TangentSpace<T>& space) {
    const BlockShape& block = weights.shapes.block[l];
    forward_tangent<T>(block, norm_input(weights, l, normed), norm_input(along, l, normed_tangent),
                       maps.statistics[l] + image * stats_size(block),
                       space.tangents.output(weights.plan, l) + image * pooled_size(block),
                       space.statistics[l] + image * tangent_stats_size(block));
    windows_forward(weights, l, image, maps, space.tangents);
}

// The tangent of the map lies where that of its gradient goes, gz.tangent. Adds to the sums, which may be null.
template <class T>
void block_backward_tangent(const Weights<T>& weights, const Weights<T>& along, int64_t l, int64_t image,
                            const T* normed, const Maps<T>& maps, const TangentSpace<T>& space, const Sums<T>* sums,
                            Dual<T> gz) {
    const BlockShape& block = weights.shapes.block[l];
    const int64_t pooled = image * pooled_size(block);
    const Dual<const T> statistics = {maps.statistics[l] + image * stats_size(block),
                                      space.statistics[l] + image * tangent_stats_size(block)};
    const Dual<const T> gp = {maps.output_gradient(weights.plan, l) + pooled,
                              space.tangents.output_gradient(weights.plan, l) + pooled};
    backward_tangent<T>(block, norm_input(weights, l, normed), norm_input<T>(along, l, gz.tangent), statistics, gp, gz,
                        sums ? sums->gamma[l] : nullptr, sums ? sums->beta[l] : nullptr, space.scratch);
    if (sums && weights.plan.bias[l] >= 0) add_bias_gradient<T>(block, gz.tangent, sums->bias[l]);
}

// The tangents of forward_pass along a direction of the weights, up to those of the logits' gradients; `maps` are what
// both passes over the same images have left.
template <class T, class Image>
void forward_tangent_pass(const Weights<T>& weights, const Weights<T>& along, int64_t count, Image image, T scale,
                          const Maps<T>& maps, const TangentSpace<T>& space) {
    const ConvNetPlan& plan = weights.plan;
    const Maps<T>& tangents = space.tangents;
    for (int64_t i = 0; i < count && weights.shapes.route[0] == Route::kDirect; ++i) {
        pad_image(plan, image(i), space.padded + i * padded_size<T>(plan, weights.shapes));
        first_maps(weights, along, i, space);
        block_forward_tangent(weights, along, 0, i, space.first, space.first_tangent, maps, space);
    }
    for (int64_t l = weights.shapes.first_of_maps(); l < plan.depth; ++l) {
        const int64_t size = map_size(weights.shapes.block[l]);
        if (weights.shapes.route[l] == Route::kWinograd) {
            const WinogradShape shape = weights.shapes.convolution(l, count);
            transform_input<T>(shape, maps.input[l], space.transformed);
            transform_input<T>(shape, tangents.input[l], space.transformed_tangent);
            multiply_tangent<T>(shape.tiles(), shape.in_channels, shape.out_channels, space.transformed,
                                space.transformed_tangent, weights.packed.forward[l], along.packed.forward[l],
                                space.products_tangent);
            transform_output<T>(shape, space.products_tangent, along.bias(l), tangents.normed[l]);
        } else {
            const PatchTerm<T> terms[] = {{maps.input[l], along.packed.forward[l]},
                                          {tangents.input[l], weights.packed.forward[l]}};
            patch_forward<T>(weights.shapes.patch_convolution(l, count), terms, l ? 2 : 1, along.bias(l), space.patches,
                             tangents.normed[l]);  // images do not change along the weights
        }
        for (int64_t i = 0; i < count; ++i) {
            block_forward_tangent(weights, along, l, i, maps.normed[l] + i * size, tangents.normed[l] + i * size, maps,
                                  space);
        }
    }
    linear_forward_tangent<T>(linear_shape(plan, weights.shapes, count), maps.last, tangents.last,
                              weights.packed.linear, along.packed.linear, along.at(plan.linear_bias), tangents.logits);
    loss_gradient_tangent<T>(count, plan.classes, maps.logits, tangents.logits, scale, tangents.logits_gradient);
}

// Where the tangents of gradients by weights are added, and what the passes along none have left of the maps.
template <class T>
struct WeightTangents {
    const Sums<T>& sums;
    const GradientSpace<T>& space;
};

// Adds the tangent of the gradient by the weights of a convolution: gz and its tangent are in the place of maps.
template <class T>
void add_weight_tangents(const Weights<T>& weights, int64_t l, int64_t count, const Maps<T>& maps,
                         const TangentSpace<T>& space, const WeightTangents<T>& to) {
    T* sums = to.sums.weight[l];
    if (weights.shapes.route[l] == Route::kWinograd) {
        const WinogradShape shape = weights.shapes.convolution(l, count);
        const int64_t rows = shape.tiles(), in = shape.in_channels, out = shape.out_channels;
        transform_input<T>(shape, space.tangents.input[l], to.space.products);
        accumulate_weight_products<T>(rows, in, out, to.space.products, space.transformed, sums);
        accumulate_weight_products<T>(rows, in, out, to.space.transformed[l], space.transformed_tangent, sums);
    } else {
        const PatchShape shape = weights.shapes.patch_convolution(l, count);
        patch_weight_gradient<T>(shape, maps.input[l], space.tangents.normed[l], space.patches, sums);
        if (l == 0) return;  // images do not change along the weights
        patch_weight_gradient<T>(shape, space.tangents.input[l], space.normed_gradient, space.patches, sums);
    }
}

// The tangents of backward_pass down to those of the gradients by the images, out [count, channels, height, width]; and
// of those by the weights, where they are wanted.
template <class T>
void backward_tangent_pass(const Weights<T>& weights, const Weights<T>& along, int64_t count, const Maps<T>& maps,
                           const TangentSpace<T>& space, const WeightTangents<T>* wanted, T* out) {
    const Sums<T>* sums = wanted ? &wanted->sums : nullptr;
    const ConvNetPlan& plan = weights.plan;
    const Maps<T>& tangents = space.tangents;
    const LinearShape linear = linear_shape(plan, weights.shapes, count);
    linear_input_gradient<T>(linear, tangents.logits_gradient, weights.packed.linear, Write::kOver,
                             tangents.last_gradient);
    linear_input_gradient<T>(linear, maps.logits_gradient, along.packed.linear, Write::kAdd, tangents.last_gradient);
    windows_backward(weights, plan.depth - 1, count, maps, tangents);
    if (sums) {
        linear_weight_gradient<T>(linear, tangents.logits_gradient, maps.last, sums->linear, sums->linear_bias);
        linear_weight_gradient<T>(linear, maps.logits_gradient, tangents.last, sums->linear, nullptr);
    }
    for (int64_t l = plan.depth - 1; l >= weights.shapes.first_of_maps(); --l) {
        const int64_t size = map_size(weights.shapes.block[l]);
        T* input_gradient = l ? tangents.input_gradient[l] : space.image.gradient;
        for (int64_t i = 0; i < count; ++i) {
            block_backward_tangent(weights, along, l, i, maps.normed[l] + i * size, maps, space, sums,
                                   {space.normed_gradient + i * size, tangents.normed[l] + i * size});
        }
        if (weights.shapes.route[l] == Route::kWinograd) {
            const WinogradShape shape = weights.shapes.convolution(l, count);
            transform_output_adjoint<T>(shape, space.normed_gradient, space.transformed);
            transform_output_adjoint<T>(shape, tangents.normed[l], space.transformed_tangent);
            if (wanted) add_weight_tangents(weights, l, count, maps, space, *wanted);
            multiply_tangent<T>(shape.tiles(), shape.out_channels, shape.in_channels, space.transformed,
                                space.transformed_tangent, weights.packed.backward[l], along.packed.backward[l],
                                space.products_tangent);
            transform_input_adjoint<T>(shape, space.products_tangent, input_gradient);
        } else {
            if (wanted) add_weight_tangents(weights, l, count, maps, space, *wanted);
            const PatchTerm<T> terms[] = {{tangents.normed[l], weights.packed.backward[l]},
                                          {space.normed_gradient, along.packed.backward[l]}};
            patch_input_gradient<T>(weights.shapes.patch_convolution(l, count), terms, 2, space.patches,
                                    input_gradient);
        }
        if (l > 0) windows_backward(weights, l - 1, count, maps, tangents);
    }
    const int64_t image_size = plan.channels * plan.height * plan.width;
    if (weights.shapes.route[0] != Route::kDirect) {
        for (int64_t i = 0; i < count; ++i) {
            turn_back<T>(plan, space.image.gradient + i * image_size, out + i * image_size);
        }
        return;
    }
    const FirstShape shape = weights.shapes.first_convolution(plan.channels);
    for (int64_t i = 0; i < count; ++i, out += image_size) {
        first_maps(weights, along, i, space);
        block_backward_tangent(weights, along, 0, i, space.first, maps, space, sums,
                               {space.first, space.first_tangent});
        if (sums) {
            first_conv_weight_gradient<T>(shape, space.padded + i * padded_size<T>(plan, weights.shapes),
                                          space.first_tangent, sums->weight[0]);
        }
        first_conv_input_gradient<T>(shape, space.first_tangent, weights.packed.forward[0], Write::kOver,
                                     space.image.row, space.image.gradient);
        first_conv_input_gradient<T>(shape, space.first, along.packed.forward[0], Write::kAdd, space.image.row,
                                     space.image.gradient);
        cut_frame<T>(plan, shape, space.image.gradient, out);
    }
}

// Of images of one class: d/d images of <direction, d/d theta of scale * (the sum of their losses)>.
template <class T>
void image_gradients(const ConvNetPlan& plan, const PackedTheta<T>& theta, const PackedTheta<T>& direction,
                     const ImageRun<T>& run, T* record, T* out, T* workspace) {
    const Shapes shapes(plan);
    const Weights<T> weights(plan, shapes, theta), along(plan, shapes, direction);
    const int64_t most = most_together<T>(plan, shapes), image_size = plan.channels * plan.height * plan.width;
    const TangentSpace<T> tangent_space(plan, shapes, most, workspace);
    const GradientSpace<T> space(plan, shapes, most, Gradients::kApart, workspace + tangent_space.arena.used);
    Arena<T> kept{record};
    for_groups<T>(plan, shapes, run.count, [&](int64_t begin, int64_t group) {
        const auto image = [&](int64_t i) { return run.images + (begin + i) * image_size; };
        const Maps<T> maps = record ? Maps<T>(plan, shapes, group, kept, Gradients::kApart) : space.maps;
        if (!record) {
            for (int64_t i = 0; i < group; ++i) space.labels[i] = run.labels.classes[0];
            forward_pass(weights, group, image, space, maps);
            loss_gradient<T>(group, plan.classes, maps.logits, space.labels, run.scale, maps.logits_gradient);
            classifier_backward(weights, group, maps);
            backward_pass<T>(weights, group, nullptr, space, maps);
        }
        forward_tangent_pass(weights, along, group, image, run.scale, maps, tangent_space);
        backward_tangent_pass<T>(weights, along, group, maps, tangent_space, nullptr, out + begin * image_size);
    });
}

// Of images with labels at their index: d/d images of <direction, d/d theta of scale * (the sum of their losses)>, to
// out [count, ...], and the same by theta, added to the sums.
template <class T>
void add_hessian_product(const ConvNetPlan& plan, const PackedTheta<T>& theta, const PackedTheta<T>& direction,
                         const ImageRun<T>& run, T* sums_buffer, T* out, T* workspace) {
    const Shapes shapes(plan);
    const Weights<T> weights(plan, shapes, theta), along(plan, shapes, direction);
    const Sums<T> sums(plan, shapes, sums_buffer);
    const int64_t most = most_together<T>(plan, shapes), image_size = plan.channels * plan.height * plan.width;
    const TangentSpace<T> tangent_space(plan, shapes, most, workspace);
    const GradientSpace<T> space(plan, shapes, most, Gradients::kApart, workspace + tangent_space.arena.used);
    const WeightTangents<T> wanted = {sums, space};
    for_groups<T>(plan, shapes, run.count, [&](int64_t begin, int64_t group) {
        const auto image = [&](int64_t i) { return run.images + run.index[begin + i] * image_size; };
        for (int64_t i = 0; i < group; ++i) space.labels[i] = run.labels.classes[run.index[begin + i]];
        forward_pass(weights, group, image, space, space.maps);
        loss_gradient<T>(group, plan.classes, space.maps.logits, space.labels, run.scale, space.maps.logits_gradient);
        classifier_backward(weights, group, space.maps);
        backward_pass<T>(weights, group, nullptr, space, space.maps);
        forward_tangent_pass(weights, along, group, image, run.scale, space.maps, tangent_space);
        backward_tangent_pass<T>(weights, along, group, space.maps, tangent_space, &wanted, out + begin * image_size);
    });
}

template <class T>
int64_t record_size(const ConvNetPlan& plan, int64_t count) {
    return group_maps_size<T>(plan, count, Gradients::kApart);
}

template <class T>
int64_t workspace_size(const ConvNetPlan& plan) {
    const Shapes shapes(plan);
    const int64_t most = most_together<T>(plan, shapes);
    return TangentSpace<T>(plan, shapes, most, nullptr).arena.used +
           GradientSpace<T>(plan, shapes, most, Gradients::kApart, nullptr).arena.used;
}

// The sum of one element over all parts.
template <class T>
FASTDC_INLINE T sum_at(const PartialSums<T>& from, int64_t i) {
    T total = from.parts[i];
    for (int64_t part = 1; part < from.count; ++part) total += from.parts[part * from.size + i];
    return total;
}

template <class T>
void update(const PartialSums<T>& gradients, Range elements, const SgdOptions& sgd, T* velocity, T* theta) {
    const T lr = static_cast<T>(sgd.lr), momentum = static_cast<T>(sgd.momentum);
    const T weight_decay = static_cast<T>(sgd.weight_decay);
    for (int64_t i = elements.begin; i < elements.end; ++i) {
        const T gradient = sum_at(gradients, i);
        velocity[i] = momentum * velocity[i] + (gradient + weight_decay * theta[i]);
        theta[i] -= lr * velocity[i];
    }
}

template <class T>
void sum(const PartialSums<T>& from, Range elements, T* to) {
    for (int64_t i = elements.begin; i < elements.end; ++i) to[i] = sum_at(from, i);
}

template <class T>
constexpr ConvNetKernels<T> kernels_of() {
    ConvNetKernels<T> kernels{};
    kernels.packed_size = packed_size<T>;
    kernels.pack_pieces = pack_pieces;
    kernels.pack = pack<T>;
    kernels.workspace_size = workspace_size<T>;
    kernels.record_size = record_size<T>;
    kernels.sums_size = sums_size<T>;
    kernels.add_gradient = add_gradient<T>;
    kernels.unpack_gradient = unpack_gradient<T>;
    kernels.image_gradients = image_gradients<T>;
    kernels.add_hessian_product = add_hessian_product<T>;
    kernels.batch_maps_size = batch_maps_size<T>;
    kernels.batch_forward = batch_forward<T>;
    kernels.batch_backward = batch_backward<T>;
    kernels.batch_statistics = batch_statistics<T>;
    kernels.batch_coefficients = batch_coefficients<T>;
    kernels.output_size = output_size;
    kernels.outputs = outputs<T>;
    kernels.output_gradients = output_gradients<T>;
    kernels.update = update<T>;
    kernels.sum = sum<T>;
    return kernels;
}

}  // namespace

namespace FASTDC_INSTRUCTION_SET {
const ConvNetKernels<float> convnet_kernels_float = kernels_of<float>();
#if !defined(__AVX512F__)
const ConvNetKernels<double> convnet_kernels_double = kernels_of<double>();
#endif
}  // namespace FASTDC_INSTRUCTION_SET

}  // namespace fastdc
