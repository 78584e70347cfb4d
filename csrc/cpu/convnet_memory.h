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
#include "cpu/patch_conv.h"
#include "cpu/window_pool.h"
#include "cpu/winograd.h"

namespace fastdc {
namespace {

// Images that go through the network together: enough rows for the products, few enough for the cache. Where the
// weights are larger than the cache, each group reads them from memory, and more images share that.
constexpr int64_t kMostImages = 4;
constexpr int64_t kMostPlaneBytes = 4 << 20;       // of the transformed maps of such a group
constexpr int64_t kMostMapBytes = 1 << 20;         // of its maps, where small ones ask for more images
constexpr int64_t kEnoughRows = 4 * kRowsMax;      // of a product
constexpr int64_t kWeightBytesPerImage = 2 << 20;  // of the transformed weights
constexpr int64_t kMostSharing = 64;               // images, however large the weights are: memory stays bounded,
constexpr int64_t kMostSharedMapBytes = 64 << 20;  // as it does by that of their maps
// Outputs of a convolution up to which weights in 36 planes cost more than the products that they save.
constexpr int64_t kFewPositions = 48;

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

// How a convolution is computed: by first_conv.h, from the image and anew wherever its map is needed; by winograd.h; or
// by patch_conv.h.
enum class Route { kDirect, kWinograd, kPatches };

inline Route route_of(const ConvNetPlan& plan, int64_t l, int64_t height, int64_t width) {
    const int64_t padding = plan.padding[l], kernel = plan.kernel_height[l];
    if (plan.kernel_width[l] != kernel || plan.stride[l] != 1) return Route::kPatches;
    if (l == 0) return kernel == 3 && padding > 0 ? Route::kDirect : Route::kPatches;
    if (!is_winograd_kernel(kernel) || padding != kernel / 2 || (height <= 2 && width <= 2)) return Route::kPatches;
    return plan.sharing && plan.sharing * height * width <= kFewPositions ? Route::kPatches : Route::kWinograd;
}

// The map that block `l` normalises, and how it comes about.
struct Shapes {
    explicit Shapes(const ConvNetPlan& plan) {
        int64_t height = plan.height, width = plan.width, channels = plan.channels;
        for (int64_t l = 0; l < plan.depth; ++l) {
            const Kernel kernel = {plan.kernel_height[l], plan.kernel_width[l], plan.stride[l], plan.padding[l]};
            patches[l] = patch_shape(1, height, width, channels, plan.features[l], kernel);
            route[l] = route_of(plan, l, height, width);
            channels = plan.features[l];
            block[l] = {patches[l].out_height,
                        patches[l].out_width,
                        channels,
                        plan.groups[l],
                        static_cast<Norm>(plan.norm[l]),
                        static_cast<Activation>(plan.activation[l]),
                        static_cast<Pooling>(plan.pooling[l]),
                        plan.epsilon[l],
                        plan.slope[l]};
            windows[l] = {pooled_height(block[l]), pooled_width(block[l]), channels, plan.windows[l]};
            height = has_windows(l) ? windows[l].out_height() : windows[l].height;
            width = has_windows(l) ? windows[l].out_width() : windows[l].width;
            given[l] = height * width * channels;
        }
        last_height = height;
        last_width = width;
        last_channels = channels;
    }

    bool has_windows(int64_t l) const { return windows[l].windows.rows.kernel > 0; }

    // The first block whose convolution reads a map, and not the images.
    int64_t first_of_maps() const { return route[0] == Route::kDirect ? 1 : 0; }

    WinogradShape convolution(int64_t l, int64_t images) const {
        const PatchShape& of = patches[l];
        return {of.kernel_height, images, of.height, of.width, of.channels, of.features};
    }

    PatchShape patch_convolution(int64_t l, int64_t images) const {
        PatchShape shape = patches[l];
        shape.images = images;
        return shape;
    }

    FirstShape first_convolution(int64_t channels) const {
        return first_shape(channels, block[0].channels, block[0].height, block[0].width);
    }

    Route route[kMostBlocks];
    PatchShape patches[kMostBlocks];  // of one image
    BlockShape block[kMostBlocks];
    WindowShape windows[kMostBlocks];                // over what norm_act_pool.h pools
    int64_t given[kMostBlocks];                      // elements of the map that a block gives
    int64_t last_height, last_width, last_channels;  // of what the linear layer reads
};

// The largest of what size(l) says of the blocks from `first` on; 0 where there is none.
template <class Size>
inline int64_t largest(const ConvNetPlan& plan, int64_t first, Size size) {
    int64_t result = 0;
    for (int64_t l = first; l < plan.depth; ++l) result = result < size(l) ? size(l) : result;
    return result;
}

// The same of blocks that are computed in one way.
template <class Size>
inline int64_t largest_by(Route route, const ConvNetPlan& plan, const Shapes& shapes, Size size) {
    return largest(plan, 0, [&](int64_t l) { return shapes.route[l] == route ? size(l) : 0; });
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

// Elements of the planes that convolution l, of Winograd's, reads or writes; and the most of any of them.
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
    return largest_by(Route::kWinograd, plan, shapes, [&](int64_t l) {
        const int64_t read = planes_read<T>(shapes, l, images), written = planes_written<T>(shapes, l, images);
        return read < written ? written : read;
    });
}

// Elements of what convolution l reads, forward, besides maps and biases: the packed weights.
template <class T>
inline int64_t packed_size(const ConvNetPlan& plan, const Shapes& shapes, int64_t l) {
    switch (shapes.route[l]) {
        case Route::kDirect:
            return first_packed_size(plan.channels, plan.features[0]);
        case Route::kWinograd:
            return packed_weights_size<T>(plan.features[l - 1], plan.features[l]);
        case Route::kPatches:
            return patch_packed_size<T>(shapes.patches[l].depth(), plan.features[l]);
    }
    return 0;
}
// The same, back.
template <class T>
inline int64_t packed_backward_size(const ConvNetPlan& plan, const Shapes& shapes, int64_t l) {
    switch (shapes.route[l]) {
        case Route::kDirect:
            return 0;
        case Route::kWinograd:
            return packed_weights_size<T>(plan.features[l], plan.features[l - 1]);
        case Route::kPatches:
            return patch_packed_size<T>(plan.features[l], shapes.patches[l].depth());
    }
    return 0;
}
// Elements of the sums of its gradients by the weights.
template <class T>
inline int64_t weight_sums_size(const ConvNetPlan& plan, const Shapes& shapes, int64_t l) {
    switch (shapes.route[l]) {
        case Route::kDirect:
            return first_packed_size(plan.channels, plan.features[0]);
        case Route::kWinograd:
            return planes_size<T>(plan.features[l - 1], plan.features[l]);
        case Route::kPatches:
            return shapes.patches[l].depth() * plan.features[l];
    }
    return 0;
}

// How many images go together at the most.
template <class T>
inline int64_t most_together(const ConvNetPlan& plan, const Shapes& shapes) {
    constexpr int64_t size = sizeof(T);
    const auto least_of = [](int64_t a, int64_t b) { return a < b ? a : b; };
    const auto most_of = [](int64_t a, int64_t b) { return a < b ? b : a; };
    const int64_t planes = most_planes<T>(plan, shapes, 1) * size;
    int64_t weights = 0, maps = 0, fewest = kEnoughRows;
    for (int64_t l = 0; l < plan.depth; ++l) {
        if (shapes.route[l] != Route::kDirect) weights += packed_size<T>(plan, shapes, l) * size;
        if (shapes.route[l] == Route::kPatches) fewest = least_of(fewest, shapes.patches[l].positions());
        maps += map_size(shapes.block[l]) * size;
    }
    const int64_t fit = planes ? kMostPlaneBytes / planes : kMostSharing;
    const int64_t sharing =
        least_of(least_of(weights / kWeightBytesPerImage, kMostSharing), kMostSharedMapBytes / maps);
    const int64_t of_rows = least_of(least_of(kEnoughRows / fewest, fit), kMostMapBytes / maps);
    return most_of(most_of(1, least_of(fit, kMostImages)), most_of(sharing, of_rows));
}

// The weights of a network in the layouts of the stages.
template <class T>
struct Packed {
    Packed(const ConvNetPlan& plan, const Shapes& shapes, T* buffer) {
        Arena<T> arena{buffer};
        for (int64_t l = 0; l < plan.depth; ++l) {
            forward[l] = arena.take(packed_size<T>(plan, shapes, l));
            backward[l] = arena.take(packed_backward_size<T>(plan, shapes, l));
        }
        linear = arena.take(plan.classes * linear_features(shapes));
        for (int64_t l = 0; l < plan.depth; ++l) {
            const bool own = shapes.block[l].norm == Norm::kLayer;
            gamma[l] = own ? arena.take(affine_size(shapes.block[l])) : nullptr;
            beta[l] = own ? arena.take(affine_size(shapes.block[l])) : nullptr;
        }
        size = arena.used;
    }

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
        for (int64_t l = 0; l < plan.depth; ++l) {
            weight[l] = arena.take(weight_sums_size<T>(plan, shapes, l));
            bias[l] = arena.take(plan.features[l]);
            const int64_t affine = affine_size(shapes.block[l]);
            gamma[l] = affine ? arena.take(affine) : nullptr;
            beta[l] = affine ? arena.take(affine) : nullptr;
        }
        linear = arena.take(plan.classes * linear_features(shapes));
        linear_bias = arena.take(plan.classes);
        size = arena.used;
    }

    T* weight[kMostBlocks];
    T* bias[kMostBlocks];
    T* gamma[kMostBlocks];
    T* beta[kMostBlocks];
    T* linear;
    T* linear_bias;
    int64_t size;
};

template <class T>
inline int64_t padded_size(const ConvNetPlan& plan, const Shapes& shapes) {
    if (shapes.route[0] != Route::kDirect) return 0;
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
            const bool kept = l >= shapes.first_of_maps();
            const int64_t read = l ? shapes.given[l - 1] : plan.channels * plan.height * plan.width;
            const int64_t covered = shapes.has_windows(l) ? pooled_size(shapes.block[l]) : 0;
            input[l] = kept ? arena.take(images * read) : nullptr;
            input_gradient[l] = l && apart ? arena.take(images * read) : input[l];
            normed[l] = kept ? arena.take(images * map_size(shapes.block[l])) : nullptr;
            statistics[l] = arena.take(images * stats_size(shapes.block[l]));
            under_windows[l] = covered ? arena.take(images * covered) : nullptr;
            under_windows_gradient[l] = covered ? arena.take(images * covered) : nullptr;
        }
        last = arena.take(images * linear_features(shapes));
        last_gradient = arena.take(images * linear_features(shapes));
        logits = arena.take(images * plan.classes);
        logits_gradient = arena.take(images * plan.classes);
    }

    // What block l gives: the next block's input, or what the classifier reads.
    T* given(const ConvNetPlan& plan, int64_t l) const { return l + 1 < plan.depth ? input[l + 1] : last; }
    T* given_gradient(const ConvNetPlan& plan, int64_t l) const {
        return l + 1 < plan.depth ? input_gradient[l + 1] : last_gradient;
    }

    // What norm_act_pool.h writes: the same, or what windows pool to that.
    T* output(const ConvNetPlan& plan, int64_t l) const { return under_windows[l] ? under_windows[l] : given(plan, l); }
    T* output_gradient(const ConvNetPlan& plan, int64_t l) const {
        return under_windows[l] ? under_windows_gradient[l] : given_gradient(plan, l);
    }

    T* input[kMostBlocks];  // what block l reads; null where that is the image itself, computed with directly
    T* input_gradient[kMostBlocks];
    T* normed[kMostBlocks];  // what its norm reads; null where it is computed anew wherever it is needed
    T* statistics[kMostBlocks];
    T* under_windows[kMostBlocks];  // null where there are none
    T* under_windows_gradient[kMostBlocks];
    T* last;
    T* last_gradient;
    T* logits;
    T* logits_gradient;
};

// Planes or patches of any convolution, a map that any block normalises which keeps it, and one that does not.
template <class T>
T* take_planes(const ConvNetPlan& plan, const Shapes& shapes, int64_t images, Arena<T>& arena) {
    return arena.take(most_planes<T>(plan, shapes, images));
}
template <class T>
T* take_patches(const ConvNetPlan& plan, const Shapes& shapes, int64_t images, Arena<T>& arena) {
    return arena.take(largest_by(Route::kPatches, plan, shapes,
                                 [&](int64_t l) { return patches_size<T>(shapes.patch_convolution(l, images)); }));
}
template <class T>
T* take_normed(const ConvNetPlan& plan, const Shapes& shapes, int64_t images, Arena<T>& arena) {
    const auto size = [&](int64_t l) { return map_size(shapes.block[l]); };
    return arena.take(images * largest(plan, shapes.first_of_maps(), size));
}
template <class T>
T* take_first(const Shapes& shapes, Arena<T>& arena) {
    return arena.take(shapes.first_of_maps() ? map_size(shapes.block[0]) : 0);
}

// What gradients by images are computed in.
template <class T>
struct ImageSpace {
    ImageSpace(const ConvNetPlan& plan, const Shapes& shapes, int64_t images, Arena<T>& arena) {
        const bool direct = shapes.route[0] == Route::kDirect;
        const int64_t height = direct ? shapes.block[0].height : plan.height;
        const int64_t width = direct ? shapes.block[0].width : plan.width;
        row = arena.take(direct ? first_row_size<T>(width) : 0);
        gradient = arena.take((direct ? 1 : images) * plan.channels * height * width);
    }

    T* row;
    T* gradient;  // of one image with its frame; or of all, channels last
};

// The workspace of the passes forward and backward.
template <class T>
struct GradientSpace {
    GradientSpace(const ConvNetPlan& plan, const Shapes& shapes, int64_t images, Gradients where, T* buffer)
        : arena{buffer}, maps(plan, shapes, images, arena, where) {
        const bool apart = where == Gradients::kApart;
        padded = arena.take(images * padded_size<T>(plan, shapes));
        first = take_first<T>(shapes, arena);
        for (int64_t l = 0; l < plan.depth; ++l) {
            if (shapes.route[l] == Route::kWinograd) transformed[l] = arena.take(planes_read<T>(shapes, l, images));
        }
        products = take_planes(plan, shapes, images, arena);
        gradients = take_planes(plan, shapes, images, arena);
        patches = take_patches(plan, shapes, images, arena);
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
    T* patches;
    T* normed_gradient;  // null: in place of the map
    T* scratch;
    int64_t* labels;
};

// The workspace of the tangents of both passes.
template <class T>
struct TangentSpace {
    TangentSpace(const ConvNetPlan& plan, const Shapes& shapes, int64_t images, T* buffer)
        : arena{buffer},
          tangents(plan, shapes, images, arena, Gradients::kInPlace),
          image(plan, shapes, images, arena) {
        padded = arena.take(images * padded_size<T>(plan, shapes));
        first = take_first<T>(shapes, arena);
        first_tangent = take_first<T>(shapes, arena);
        normed_gradient = take_normed(plan, shapes, images, arena);
        transformed = take_planes(plan, shapes, images, arena);
        transformed_tangent = take_planes(plan, shapes, images, arena);
        products_tangent = take_planes(plan, shapes, images, arena);
        patches = take_patches(plan, shapes, images, arena);
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
    T* patches;
    T* statistics[kMostBlocks];
    T* scratch;
};

}  // namespace
}  // namespace fastdc
