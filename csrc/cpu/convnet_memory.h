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

// Images that go through the network together: enough rows for the products, few enough for the cache. Where the
// weights are larger than the cache, each group reads them from memory, and more images share that.
constexpr int64_t kMostImages = 4;
constexpr int64_t kMostPlaneBytes = 4 << 20;       // of the transformed maps of such a group
constexpr int64_t kWeightBytesPerImage = 2 << 20;  // of the transformed weights
constexpr int64_t kMostSharing = 64;               // images, however large the weights are: memory stays bounded

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
                        plan.features[l],
                        plan.groups[l],
                        static_cast<Norm>(plan.norm[l]),
                        static_cast<Activation>(plan.activation[l]),
                        static_cast<Pooling>(plan.pooling[l])};
            height = pooled_height(block[l]);
            width = pooled_width(block[l]);
        }
        last_height = height;
        last_width = width;
        last_channels = plan.features[plan.depth - 1];
    }

    WinogradShape convolution(int64_t l, int64_t images) const {
        return {images, block[l].height, block[l].width, block[l - 1].channels, block[l].channels};
    }

    FirstShape first_convolution(int64_t channels) const {
        return first_shape(channels, block[0].channels, block[0].height, block[0].width);
    }

    BlockShape block[kMostBlocks];
    int64_t last_height, last_width, last_channels;  // of what the linear layer reads
};

// The largest of what size(l) says of the blocks from `first` on; 0 where there is none.
template <class Size>
inline int64_t largest(const ConvNetPlan& plan, int64_t first, Size size) {
    int64_t result = 0;
    for (int64_t l = first; l < plan.depth; ++l) result = result < size(l) ? size(l) : result;
    return result;
}

inline int64_t most_channels(const ConvNetPlan& plan) {
    return largest(plan, 0, [&](int64_t l) { return plan.features[l]; });
}

inline int64_t linear_features(const Shapes& shapes) {
    return shapes.last_channels * shapes.last_height * shapes.last_width;
}

inline LinearShape linear_shape(const ConvNetPlan& plan, const Shapes& shapes, int64_t images) {
    return {images, linear_features(shapes), plan.classes};
}

// Elements of the planes that convolution l, 1 or more, reads or writes; and the most of any of them.
template <class T>
inline int64_t planes_read(const Shapes& shapes, int64_t l, int64_t images) {
    const WinogradShape shape = shapes.convolution(l, images);
    return planes_size<T>(shape.tiles(), shape.in_channels);
}
template <class T>
inline int64_t planes_written(const Shapes& shapes, int64_t l, int64_t images) {
    const WinogradShape shape = shapes.convolution(l, images);
    return planes_size<T>(shape.tiles(), shape.out_channels);
}
template <class T>
inline int64_t most_planes(const ConvNetPlan& plan, const Shapes& shapes, int64_t images) {
    return largest(plan, 1, [&](int64_t l) {
        const int64_t read = planes_read<T>(shapes, l, images), written = planes_written<T>(shapes, l, images);
        return read < written ? written : read;
    });
}

// How many images go together at the most.
template <class T>
inline int64_t most_together(const ConvNetPlan& plan, const Shapes& shapes) {
    if (plan.depth == 1) return kMostImages;
    constexpr int64_t size = sizeof(T);
    const int64_t fit = kMostPlaneBytes / (most_planes<T>(plan, shapes, 1) * size);
    int64_t weights = 0;
    for (int64_t l = 1; l < plan.depth; ++l) weights += packed_weights_size<T>(plan.features[l - 1], plan.features[l]);
    const int64_t wanted = weights * size / kWeightBytesPerImage, least = wanted < kMostSharing ? wanted : kMostSharing;
    const int64_t most = fit < kMostImages ? fit : kMostImages;
    return most < 1 && least < 1 ? 1 : most < least ? least : most;
}

// The weights of a network in the layouts of the stages.
template <class T>
struct Packed {
    Packed(const ConvNetPlan& plan, const Shapes& shapes, T* buffer) {
        Arena<T> arena{buffer};
        first = arena.take(first_packed_size(plan.channels, plan.features[0]));
        for (int64_t l = 1; l < plan.depth; ++l) {
            forward[l] = arena.take(packed_weights_size<T>(plan.features[l - 1], plan.features[l]));
            backward[l] = arena.take(packed_weights_size<T>(plan.features[l], plan.features[l - 1]));
        }
        linear = arena.take(plan.classes * linear_features(shapes));
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
        first = arena.take(first_packed_size(plan.channels, plan.features[0]));
        for (int64_t l = 0; l < plan.depth; ++l) {
            products[l] = l ? arena.take(planes_size<T>(plan.features[l - 1], plan.features[l])) : nullptr;
            bias[l] = arena.take(plan.features[l]);
            const int64_t affine = affine_size(shapes.block[l]);
            gamma[l] = affine ? arena.take(affine) : nullptr;
            beta[l] = affine ? arena.take(affine) : nullptr;
        }
        linear = arena.take(plan.classes * linear_features(shapes));
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
            const int64_t read = l ? pooled_size(shapes.block[l - 1]) : 0;
            input[l] = l ? arena.take(images * read) : nullptr;
            input_gradient[l] = l && apart ? arena.take(images * read) : input[l];
            normed[l] = l ? arena.take(images * map_size(shapes.block[l])) : nullptr;
            statistics[l] = arena.take(images * stats_size(shapes.block[l]));
        }
        last = arena.take(images * linear_features(shapes));
        last_gradient = arena.take(images * linear_features(shapes));
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

// Planes of any convolution, and a map that any block but the first normalises; null where there is only the first.
template <class T>
T* take_planes(const ConvNetPlan& plan, const Shapes& shapes, int64_t images, Arena<T>& arena) {
    return plan.depth > 1 ? arena.take(most_planes<T>(plan, shapes, images)) : nullptr;
}
template <class T>
T* take_normed(const ConvNetPlan& plan, const Shapes& shapes, int64_t images, Arena<T>& arena) {
    const int64_t size = largest(plan, 1, [&](int64_t l) { return map_size(shapes.block[l]); });
    return plan.depth > 1 ? arena.take(images * size) : nullptr;
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
        for (int64_t l = 1; l < plan.depth; ++l) transformed[l] = arena.take(planes_read<T>(shapes, l, images));
        products = take_planes(plan, shapes, images, arena);
        gradients = take_planes(plan, shapes, images, arena);
        normed_gradient = apart ? take_normed(plan, shapes, images, arena) : nullptr;
        scratch = arena.take(4 * most_channels(plan));
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
        normed_gradient = take_normed(plan, shapes, images, arena);
        transformed = take_planes(plan, shapes, images, arena);
        transformed_tangent = take_planes(plan, shapes, images, arena);
        products_tangent = take_planes(plan, shapes, images, arena);
        for (int64_t l = 0; l < plan.depth; ++l) {
            statistics[l] = arena.take(images * tangent_stats_size(shapes.block[l]));
        }
        scratch = arena.take(8 * most_channels(plan));
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
