// Where everything lies that a pass through the ConvNet works on: shapes of the blocks, weights in the layouts of the
// stages, sums of gradients, the maps of a group of images, and the workspace of a pass.
//
// A group is a few images that go through the network together. What a structure here takes from a buffer, and in what
// order, depends on shapes alone; made with a null buffer it only counts.
//
// Included by files that are compiled once per instruction set, hence without external linkage (see instruction_set.h).
#pragma once

#include <cstdint>

#include "cpu/convnet.h"
#include "cpu/first_conv.h"
#include "cpu/linear_loss.h"
#include "cpu/norm_act_pool.h"
#include "cpu/winograd.h"

namespace fastdc {
namespace {

// Images that go through the network together: enough rows for the products, few enough for the cache.
constexpr int64_t kMostImages = 4;
constexpr int64_t kMostPlaneBytes = 4 << 20;  // of the transformed maps of such a group

// Hands out consecutive stretches of a buffer, each starting at 64 bytes; without a buffer it just adds up.
template <class T>
struct Arena {
    T* begin;
    int64_t used = 0;

    T* take(int64_t count) {
        constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
        T* result = begin ? begin + used : nullptr;
        used += (count + line - 1) / line * line;
        return result;
    }
};

// The map that block `l` normalises.
struct Shapes {
    explicit Shapes(const ConvNetPlan& plan) {
        int64_t height = plan.height + 2 * (plan.padding - 1), width = plan.width + 2 * (plan.padding - 1);
        for (int64_t l = 0; l < plan.depth; ++l) {
            block[l] = {height,
                        width,
                        plan.features,
                        plan.groups,
                        static_cast<Norm>(plan.norm),
                        static_cast<Activation>(plan.activation),
                        static_cast<Pooling>(plan.pooling)};
            height = pooled_height(block[l]);
            width = pooled_width(block[l]);
        }
        last_height = height;
        last_width = width;
    }

    WinogradShape convolution(int64_t l, int64_t images) const {
        return {images, block[l].height, block[l].width, block[l].channels, block[l].channels};
    }

    FirstShape first_convolution(int64_t channels) const {
        return first_shape(channels, block[0].channels, block[0].height, block[0].width);
    }

    BlockShape block[kMostBlocks];
    int64_t last_height, last_width;
};

inline int64_t linear_features(const ConvNetPlan& plan, const Shapes& shapes) {
    return plan.features * shapes.last_height * shapes.last_width;
}

inline LinearShape linear_shape(const ConvNetPlan& plan, const Shapes& shapes, int64_t images) {
    return {images, linear_features(plan, shapes), plan.classes};
}

// How many images go together at the most.
template <class T>
inline int64_t most_together(const ConvNetPlan& plan, const Shapes& shapes) {
    if (plan.depth == 1) return kMostImages;
    const int64_t bytes =
        planes_size<T>(shapes.convolution(1, 1).tiles(), plan.features) * static_cast<int64_t>(sizeof(T));
    const int64_t fit = kMostPlaneBytes / bytes;
    return fit < 1 ? 1 : fit < kMostImages ? fit : kMostImages;
}

// The weights of a network in the layouts of the stages.
template <class T>
struct Packed {
    Packed(const ConvNetPlan& plan, const Shapes& shapes, T* buffer) {
        Arena<T> arena{buffer};
        first = arena.take(first_packed_size(plan.channels, plan.features));
        for (int64_t l = 1; l < plan.depth; ++l) {
            forward[l] = arena.take(packed_weights_size<T>(plan.features, plan.features));
            backward[l] = arena.take(packed_weights_size<T>(plan.features, plan.features));
        }
        linear = arena.take(plan.classes * linear_features(plan, shapes));
        for (int64_t l = 0; l < plan.depth; ++l) {
            const bool own = shapes.block[l].norm == Norm::kLayer;
            gamma[l] = own ? arena.take(affine_size(shapes.block[l])) : nullptr;
            beta[l] = own ? arena.take(affine_size(shapes.block[l])) : nullptr;
        }
        size = arena.used;
    }

    T* first;
    T* forward[kMostBlocks];
    T* backward[kMostBlocks];
    T* linear;
    T* gamma[kMostBlocks];
    T* beta[kMostBlocks];
    int64_t size;
};

// Gradients by the weights in the layouts of the stages.
template <class T>
struct Sums {
    Sums(const ConvNetPlan& plan, const Shapes& shapes, T* buffer) {
        Arena<T> arena{buffer};
        first = arena.take(first_packed_size(plan.channels, plan.features));
        for (int64_t l = 0; l < plan.depth; ++l) {
            products[l] = l ? arena.take(planes_size<T>(plan.features, plan.features)) : nullptr;
            bias[l] = arena.take(plan.features);
            const int64_t affine = affine_size(shapes.block[l]);
            gamma[l] = affine ? arena.take(affine) : nullptr;
            beta[l] = affine ? arena.take(affine) : nullptr;
        }
        linear = arena.take(plan.classes * linear_features(plan, shapes));
        linear_bias = arena.take(plan.classes);
        size = arena.used;
    }

    T* first;
    T* products[kMostBlocks];
    T* bias[kMostBlocks];
    T* gamma[kMostBlocks];
    T* beta[kMostBlocks];
    T* linear;
    T* linear_bias;
    int64_t size;
};

template <class T>
inline int64_t padded_size(const ConvNetPlan& plan, const Shapes& shapes) {
    return first_padded_size(plan.channels, shapes.block[0].height, shapes.block[0].width);
}

// The weights of one network, or a direction in their space: as they lie in theta, and packed.
template <class T>
struct Weights {
    Weights(const ConvNetPlan& convnet, const Shapes& of_blocks, const PackedTheta<T>& given)
        : plan(convnet),
          shapes(of_blocks),
          theta(given.theta),
          packed(convnet, of_blocks, const_cast<T*>(given.packed)) {}

    // Null where there is none.
    const T* at(int64_t place) const { return place < 0 ? nullptr : theta + place; }
    const T* bias(int64_t l) const { return at(plan.bias[l]); }
    const T* scale(int64_t l) const { return packed.gamma[l] ? packed.gamma[l] : at(plan.gamma[l]); }
    const T* shift(int64_t l) const { return packed.beta[l] ? packed.beta[l] : at(plan.beta[l]); }

    const ConvNetPlan& plan;
    const Shapes& shapes;
    const T* theta;
    const Packed<T> packed;
};

// Where the gradient by a map goes: in the map's place, or both stay, and what the passes leave is all that the
// tangents need.
enum class Gradients { kInPlace, kApart };

// The maps of a group of images, or of their tangents: [images, h, w, C] of every block.
template <class T>
struct Maps {
    Maps(const ConvNetPlan& plan, const Shapes& shapes, int64_t images, Arena<T>& arena, Gradients gradients) {
        const bool apart = gradients == Gradients::kApart;
        for (int64_t l = 0; l < plan.depth; ++l) {
            const int64_t size = map_size(shapes.block[l]);
            input[l] = l ? arena.take(images * size) : nullptr;
            input_gradient[l] = l && apart ? arena.take(images * size) : input[l];
            normed[l] = l ? arena.take(images * size) : nullptr;
            statistics[l] = arena.take(images * stats_size(shapes.block[l]));
        }
        last = arena.take(images * linear_features(plan, shapes));
        last_gradient = arena.take(images * linear_features(plan, shapes));
        logits = arena.take(images * plan.classes);
        logits_gradient = arena.take(images * plan.classes);
    }

    // What block l writes: the next block's input, or what the classifier reads.
    T* output(const ConvNetPlan& plan, int64_t l) const { return l + 1 < plan.depth ? input[l + 1] : last; }
    T* output_gradient(const ConvNetPlan& plan, int64_t l) const {
        return l + 1 < plan.depth ? input_gradient[l + 1] : last_gradient;
    }

    T* input[kMostBlocks];  // what block l reads; block 0 reads the image
    T* input_gradient[kMostBlocks];
    T* normed[kMostBlocks];  // what its norm reads; in block 0 computed anew wherever it is needed
    T* statistics[kMostBlocks];
    T* last;
    T* last_gradient;
    T* logits;
    T* logits_gradient;
};

template <class T>
T* take_planes(const ConvNetPlan& plan, const Shapes& shapes, int64_t l, int64_t images, Arena<T>& arena) {
    return plan.depth > l ? arena.take(planes_size<T>(shapes.convolution(l, images).tiles(), plan.features)) : nullptr;
}

// What the gradient by an image is computed in.
template <class T>
struct ImageSpace {
    ImageSpace(const ConvNetPlan& plan, const Shapes& shapes, Arena<T>& arena) {
        const int64_t height = shapes.block[0].height, width = shapes.block[0].width;
        row = arena.take(first_row_size<T>(width));
        framed = arena.take(plan.channels * height * width);
    }

    T* row;
    T* framed;  // the gradient by an image with its frame
};

// The workspace of the passes forward and backward.
template <class T>
struct GradientSpace {
    GradientSpace(const ConvNetPlan& plan, const Shapes& shapes, int64_t images, Gradients where, T* buffer)
        : arena{buffer}, maps(plan, shapes, images, arena, where) {
        const bool apart = where == Gradients::kApart;
        padded = arena.take(images * padded_size<T>(plan, shapes));
        first = arena.take(map_size(shapes.block[0]));
        for (int64_t l = 1; l < plan.depth; ++l) transformed[l] = take_planes(plan, shapes, l, images, arena);
        products = take_planes(plan, shapes, 1, images, arena);
        gradients = take_planes(plan, shapes, 1, images, arena);
        normed_gradient = apart && plan.depth > 1 ? arena.take(images * map_size(shapes.block[1])) : nullptr;
        scratch = arena.take(4 * plan.features);
        labels = reinterpret_cast<int64_t*>(arena.take(images * 8 / static_cast<int64_t>(sizeof(T))));
    }

    Arena<T> arena;
    Maps<T> maps;
    T* padded;  // the images with their frames of zeros
    T* first;   // the map that block 0 normalises, of one image
    T* transformed[kMostBlocks];
    T* products;
    T* gradients;
    T* normed_gradient;  // null: in place of the map
    T* scratch;
    int64_t* labels;
};

// The workspace of the tangents of both passes.
template <class T>
struct TangentSpace {
    TangentSpace(const ConvNetPlan& plan, const Shapes& shapes, int64_t images, T* buffer)
        : arena{buffer}, tangents(plan, shapes, images, arena, Gradients::kInPlace), image(plan, shapes, arena) {
        padded = arena.take(images * padded_size<T>(plan, shapes));
        first = arena.take(map_size(shapes.block[0]));
        first_tangent = arena.take(map_size(shapes.block[0]));
        normed_gradient = plan.depth > 1 ? arena.take(images * map_size(shapes.block[1])) : nullptr;
        transformed = take_planes(plan, shapes, 1, images, arena);
        transformed_tangent = take_planes(plan, shapes, 1, images, arena);
        products_tangent = take_planes(plan, shapes, 1, images, arena);
        for (int64_t l = 0; l < plan.depth; ++l) {
            statistics[l] = arena.take(images * tangent_stats_size(shapes.block[l]));
        }
        scratch = arena.take(8 * plan.features);
    }

    Arena<T> arena;
    Maps<T> tangents;
    ImageSpace<T> image;
    T* padded;
    T* first;
    T* first_tangent;
    T* normed_gradient;
    T* transformed;
    T* transformed_tangent;
    T* products_tangent;
    T* statistics[kMostBlocks];
    T* scratch;
};

}  // namespace
}  // namespace fastdc
