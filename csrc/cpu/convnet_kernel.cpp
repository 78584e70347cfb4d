// Compiled once per instruction set, into namespace FASTDC_INSTRUCTION_SET: see instruction_set.h.
#include "cpu/convnet.h"
#include "cpu/first_conv.h"
#include "cpu/linear_loss.h"
#include "cpu/norm_act_pool.h"
#include "cpu/winograd.h"

namespace fastdc {
namespace {

// Images that go through the network together: enough rows for the products, few enough for the cache.
constexpr int64_t kMostImages = 8;
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
                        static_cast<Pooling>(plan.pooling),
                        true};
            height = pooled_height(block[l]);
            width = pooled_width(block[l]);
        }
        last_height = height;
        last_width = width;
    }

    WinogradShape convolution(int64_t l, int64_t images) const {
        return {images, block[l].height, block[l].width, block[l].channels, block[l].channels};
    }

    BlockShape block[kMostBlocks];
    int64_t last_height, last_width;
};

inline int64_t linear_features(const ConvNetPlan& plan, const Shapes& shapes) {
    return plan.features * shapes.last_height * shapes.last_width;
}

// How many images go together.
template <class T>
inline int64_t group_size(const ConvNetPlan& plan, const Shapes& shapes) {
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

    // Scale and shift of block l: packed, or as they stand in theta; null where there are none.
    const T* scale_of(const ConvNetPlan& plan, const T* theta, int64_t l) const {
        return gamma[l] ? gamma[l] : plan.gamma[l] < 0 ? nullptr : theta + plan.gamma[l];
    }
    const T* shift_of(const ConvNetPlan& plan, const T* theta, int64_t l) const {
        return beta[l] ? beta[l] : plan.beta[l] < 0 ? nullptr : theta + plan.beta[l];
    }

    T* first;
    T* forward[kMostBlocks];
    T* backward[kMostBlocks];
    T* linear;
    T* gamma[kMostBlocks];
    T* beta[kMostBlocks];
    int64_t size;
};

template <class T>
int64_t packed_size(const ConvNetPlan& plan) {
    return Packed<T>(plan, Shapes(plan), nullptr).size;
}

int64_t pack_pieces(const ConvNetPlan& plan) {
    return plan.depth;
}

template <class T>
void pack(const ConvNetPlan& plan, const T* theta, int64_t piece, T* buffer) {
    const Shapes shapes(plan);
    const Packed<T> packed(plan, shapes, buffer);
    if (piece == 0) {
        pack_first_weights(plan.channels, plan.features, theta + plan.weight[0], packed.first);
        pack_linear_weights(plan.classes, plan.features, shapes.last_height, shapes.last_width,
                            theta + plan.linear_weight, packed.linear);
    } else {
        transform_weights(theta + plan.weight[piece], plan.features, plan.features, packed.forward[piece],
                          packed.backward[piece]);
    }
    if (packed.gamma[piece]) {
        const int64_t positions = shapes.block[piece].height * shapes.block[piece].width;
        to_channels_last(theta + plan.gamma[piece], plan.features, positions, packed.gamma[piece]);
        to_channels_last(theta + plan.beta[piece], plan.features, positions, packed.beta[piece]);
    }
}

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
int64_t sums_size(const ConvNetPlan& plan) {
    return Sums<T>(plan, Shapes(plan), nullptr).size;
}

template <class T>
void add_to(const T* from, int64_t count, T* to) {
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

template <class T>
void unpack_gradient(const ConvNetPlan& plan, const T* buffer, T* gradient) {
    const Shapes shapes(plan);
    const Sums<T> sums(plan, shapes, const_cast<T*>(buffer));
    for (int64_t i = 0; i < plan.parameters; ++i) gradient[i] = T(0);
    unpack_first_weights(plan.channels, plan.features, static_cast<const T*>(sums.first), gradient + plan.weight[0]);
    for (int64_t l = 0; l < plan.depth; ++l) {
        const BlockShape& block = shapes.block[l];
        if (l)
            transform_weights_adjoint(plan.features, plan.features, static_cast<const T*>(sums.products[l]),
                                      gradient + plan.weight[l]);
        if (plan.bias[l] >= 0) add_to(static_cast<const T*>(sums.bias[l]), plan.features, gradient + plan.bias[l]);
        if (block.norm == Norm::kLayer) {
            const int64_t positions = block.height * block.width;
            add_from_channels_last(static_cast<const T*>(sums.gamma[l]), plan.features, positions,
                                   gradient + plan.gamma[l]);
            add_from_channels_last(static_cast<const T*>(sums.beta[l]), plan.features, positions,
                                   gradient + plan.beta[l]);
        } else if (sums.gamma[l]) {
            add_to(static_cast<const T*>(sums.gamma[l]), plan.features, gradient + plan.gamma[l]);
            add_to(static_cast<const T*>(sums.beta[l]), plan.features, gradient + plan.beta[l]);
        }
    }
    unpack_linear_gradient(plan.classes, plan.features, shapes.last_height, shapes.last_width,
                           static_cast<const T*>(sums.linear), gradient + plan.linear_weight);
    if (plan.linear_bias >= 0)
        add_to(static_cast<const T*>(sums.linear_bias), plan.classes, gradient + plan.linear_bias);
}

// The maps of a group of images, or of their tangents: [images, h, w, C] of every block.
template <class T>
struct Maps {
    Maps(const ConvNetPlan& plan, const Shapes& shapes, int64_t images, Arena<T>& arena) {
        for (int64_t l = 0; l < plan.depth; ++l) {
            const int64_t size = map_size(shapes.block[l]);
            input[l] = l ? arena.take(images * size) : nullptr;  // what block l reads, and on the way back its gradient
            normed[l] =
                arena.take((l ? images : 1) * size);  // what its norm reads, and its gradient; of one image in block 0
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
        return l + 1 < plan.depth ? input[l + 1] : last_gradient;
    }

    T* input[kMostBlocks];
    T* normed[kMostBlocks];
    T* statistics[kMostBlocks];
    T* last;
    T* last_gradient;
    T* logits;
    T* logits_gradient;
};

template <class T>
T* take_planes(const ConvNetPlan& plan, const Shapes& shapes, int64_t images, Arena<T>& arena) {
    return plan.depth > 1 ? arena.take(planes_size<T>(shapes.convolution(1, images).tiles(), plan.features)) : nullptr;
}

template <class T>
int64_t padded_size(const ConvNetPlan& plan, const Shapes& shapes) {
    return first_padded_size(plan.channels, shapes.block[0].height, shapes.block[0].width);
}

// The image with a frame of zeros as wide as the first convolution's padding.
template <class T>
void pad_image(const ConvNetPlan& plan, const T* image, T* padded) {
    const int64_t frame = plan.padding, row = plan.width + 2 * frame;
    for (int64_t c = 0; c < plan.channels; ++c) {
        for (int64_t y = -frame; y < plan.height + frame; ++y, padded += row) {
            const bool inside = y >= 0 && y < plan.height;
            for (int64_t x = 0; x < row; ++x) padded[x] = T(0);
            if (inside) std::memcpy(padded + frame, image + (c * plan.height + y) * plan.width, sizeof(T) * plan.width);
        }
    }
}

template <class T>
void first_forward(const ConvNetPlan& plan, const Shapes& shapes, const T* padded, const T* packed, const T* bias,
                   T* out) {
    first_conv_forward_padded(plan.channels, plan.features, shapes.block[0].height, shapes.block[0].width, padded,
                              packed, bias, false, out);
}

template <class T>
const T* bias_of(const ConvNetPlan& plan, const T* theta, int64_t l) {
    return plan.bias[l] < 0 ? nullptr : theta + plan.bias[l];
}

template <class T>
const T* frozen(const void* const* of, int64_t l) {
    return static_cast<const T*>(of[l]);
}

template <class T>
void block_forward(const ConvNetPlan& plan, const Shapes& shapes, const Packed<T>& packed, const T* theta, int64_t l,
                   int64_t image, const T* normed, const Maps<T>& maps) {
    const BlockShape& block = shapes.block[l];
    forward(block, normed, packed.scale_of(plan, theta, l), packed.shift_of(plan, theta, l), frozen<T>(plan.mean, l),
            frozen<T>(plan.variance, l), maps.output(plan, l) + image * pooled_size(block),
            maps.statistics[l] + image * stats_size(block));
}

template <class T>
void add_bias_gradient(const BlockShape& block, const T* gz, T* bias) {
    if (block.norm == Norm::kInstance) return;  // it is zero: the norm takes away what a bias adds
    for (int64_t at = 0; at < block.height * block.width; ++at) {
        for (int64_t c = 0; c < block.channels; ++c) bias[c] += gz[at * block.channels + c];
    }
}

// The workspace of the passes by weights and for logits.
template <class T>
struct GradientSpace {
    GradientSpace(const ConvNetPlan& plan, const Shapes& shapes, T* buffer)
        : images(group_size<T>(plan, shapes)), arena{buffer}, maps(plan, shapes, images, arena) {
        padded = arena.take(images * padded_size<T>(plan, shapes));
        for (int64_t l = 1; l < plan.depth; ++l) {
            transformed[l] = arena.take(planes_size<T>(shapes.convolution(l, images).tiles(), plan.features));
        }
        products = take_planes(plan, shapes, images, arena);
        gradients = take_planes(plan, shapes, images, arena);
        scratch = arena.take(4 * plan.features);
        labels = reinterpret_cast<int64_t*>(arena.take(images * 8 / static_cast<int64_t>(sizeof(T))));
    }

    int64_t images;
    Arena<T> arena;
    Maps<T> maps;
    T* padded;
    T* transformed[kMostBlocks];
    T* products;
    T* gradients;
    T* scratch;
    int64_t* labels;
};

// Up to the logits of `count` <= space.images images; image(i) points to the i-th one.
template <class T, class Image>
void forward_pass(const ConvNetPlan& plan, const Shapes& shapes, const T* theta, const Packed<T>& packed, int64_t count,
                  Image image, const GradientSpace<T>& space) {
    const Maps<T>& maps = space.maps;
    const int64_t padded = padded_size<T>(plan, shapes);
    for (int64_t i = 0; i < count; ++i) {
        pad_image(plan, image(i), space.padded + i * padded);
        first_forward<T>(plan, shapes, space.padded + i * padded, packed.first, bias_of(plan, theta, 0),
                         maps.normed[0]);
        block_forward<T>(plan, shapes, packed, theta, 0, i, maps.normed[0], maps);
    }
    for (int64_t l = 1; l < plan.depth; ++l) {
        const WinogradShape shape = shapes.convolution(l, count);
        transform_input<T>(shape, maps.input[l], space.transformed[l]);
        multiply<T>(shape.tiles(), plan.features, plan.features, space.transformed[l], packed.forward[l],
                    space.products, false);
        transform_output<T>(shape, space.products, bias_of(plan, theta, l), maps.normed[l]);
        const int64_t size = map_size(shapes.block[l]);
        for (int64_t i = 0; i < count; ++i)
            block_forward<T>(plan, shapes, packed, theta, l, i, maps.normed[l] + i * size, maps);
    }
    const T* bias = plan.linear_bias < 0 ? nullptr : theta + plan.linear_bias;
    linear_forward<T>(count, linear_features(plan, shapes), plan.classes, maps.last, packed.linear, bias, maps.logits);
}

template <class T>
void block_backward(const ConvNetPlan& plan, const Shapes& shapes, const Packed<T>& packed, const T* theta, int64_t l,
                    int64_t image, T* normed, const Sums<T>& sums, const GradientSpace<T>& space) {
    const BlockShape& block = shapes.block[l];
    backward<T>(block, normed, packed.scale_of(plan, theta, l), packed.shift_of(plan, theta, l),
                space.maps.statistics[l] + image * stats_size(block),
                space.maps.output_gradient(plan, l) + image * pooled_size(block), normed, sums.gamma[l], sums.beta[l],
                space.scratch);
    if (plan.bias[l] >= 0) add_bias_gradient<T>(block, normed, sums.bias[l]);
}

// Adds to the sums the gradient of scale * (the sum of the losses of a run of images).
template <class T>
void add_gradient(const ConvNetPlan& plan, const T* theta, const T* packed_buffer, const T* images,
                  const int64_t* index, const int64_t* labels, int64_t count, T scale, T* sums_buffer, T* workspace) {
    const Shapes shapes(plan);
    const Packed<T> packed(plan, shapes, const_cast<T*>(packed_buffer));
    const Sums<T> sums(plan, shapes, sums_buffer);
    const GradientSpace<T> space(plan, shapes, workspace);
    const Maps<T>& maps = space.maps;
    const int64_t image_size = plan.channels * plan.height * plan.width, padded = padded_size<T>(plan, shapes);
    const int64_t features = plan.features;
    for (int64_t begin = 0; begin < count; begin += space.images) {
        const int64_t group = count - begin < space.images ? count - begin : space.images;
        const auto image = [&](int64_t i) { return images + (index ? index[begin + i] : begin + i) * image_size; };
        forward_pass<T>(plan, shapes, theta, packed, group, image, space);
        for (int64_t i = 0; i < group; ++i) space.labels[i] = index ? labels[index[begin + i]] : labels[0];
        softmax_loss<T>(group, plan.classes, maps.logits, space.labels, scale, maps.logits_gradient);
        linear_backward<T>(group, linear_features(plan, shapes), plan.classes, maps.logits_gradient, packed.linear,
                           maps.last, maps.last_gradient, sums.linear, sums.linear_bias);
        for (int64_t l = plan.depth - 1; l > 0; --l) {
            const WinogradShape shape = shapes.convolution(l, group);
            const int64_t size = map_size(shapes.block[l]), rows = shape.tiles();
            for (int64_t i = 0; i < group; ++i) {
                block_backward<T>(plan, shapes, packed, theta, l, i, maps.normed[l] + i * size, sums, space);
            }
            transform_output_adjoint<T>(shape, maps.normed[l], space.products);
            accumulate_weight_products<T>(rows, features, features, space.transformed[l], space.products,
                                          sums.products[l]);
            multiply<T>(rows, features, features, space.products, packed.backward[l], space.gradients, false);
            transform_input_adjoint<T>(shape, space.gradients, maps.input[l]);
        }
        for (int64_t i = 0; i < group; ++i) {
            first_forward<T>(plan, shapes, space.padded + i * padded, packed.first, bias_of(plan, theta, 0),
                             maps.normed[0]);
            block_backward<T>(plan, shapes, packed, theta, 0, i, maps.normed[0], sums, space);
            first_conv_weight_gradient_padded<T>(plan.channels, features, shapes.block[0].height, shapes.block[0].width,
                                                 space.padded + i * padded, maps.normed[0], sums.first, nullptr);
        }
    }
}

template <class T>
void logits(const ConvNetPlan& plan, const T* theta, const T* packed_buffer, const T* images, int64_t count, T* out,
            T* workspace) {
    const Shapes shapes(plan);
    const Packed<T> packed(plan, shapes, const_cast<T*>(packed_buffer));
    const GradientSpace<T> space(plan, shapes, workspace);
    const int64_t image_size = plan.channels * plan.height * plan.width;
    for (int64_t begin = 0; begin < count; begin += space.images) {
        const int64_t group = count - begin < space.images ? count - begin : space.images;
        const auto image = [&](int64_t i) { return images + (begin + i) * image_size; };
        forward_pass<T>(plan, shapes, theta, packed, group, image, space);
        std::memcpy(out + begin * plan.classes, space.maps.logits, sizeof(T) * group * plan.classes);
    }
}

// The workspace of the pass by images: maps and transformed maps twice, of the values and of their tangents.
template <class T>
struct TangentSpace {
    TangentSpace(const ConvNetPlan& plan, const Shapes& shapes, T* buffer)
        : images((group_size<T>(plan, shapes) + 1) / 2),
          arena{buffer},
          maps(plan, shapes, images, arena),
          tangents(plan, shapes, images, arena) {
        padded = arena.take(images * padded_size<T>(plan, shapes));
        transformed = take_planes(plan, shapes, images, arena);
        transformed_tangent = take_planes(plan, shapes, images, arena);
        products = take_planes(plan, shapes, images, arena);
        products_tangent = take_planes(plan, shapes, images, arena);
        scratch = arena.take(8 * plan.features);
        const int64_t height = shapes.block[0].height, width = shapes.block[0].width;
        first_scratch = arena.take(first_scratch_size<T>(plan.channels, height, width));
        framed = arena.take(plan.channels * height * width);
        labels = reinterpret_cast<int64_t*>(arena.take(images * 8 / static_cast<int64_t>(sizeof(T))));
    }

    int64_t images;
    Arena<T> arena;
    Maps<T> maps, tangents;
    T* padded;
    T* transformed;
    T* transformed_tangent;
    T* products;
    T* products_tangent;
    T* scratch;
    T* first_scratch;
    T* framed;  // the gradient by an image with its frame
    int64_t* labels;
};

// Both sides of the first convolution of one image.
template <class T>
void first_both(const ConvNetPlan& plan, const Shapes& shapes, const T* theta, const Packed<T>& packed,
                const T* direction, const Packed<T>& packed_direction, int64_t image, const TangentSpace<T>& space) {
    const T* padded = space.padded + image * padded_size<T>(plan, shapes);
    first_forward<T>(plan, shapes, padded, packed.first, bias_of(plan, theta, 0), space.maps.normed[0]);
    first_forward<T>(plan, shapes, padded, packed_direction.first, bias_of(plan, direction, 0),
                     space.tangents.normed[0]);
}

template <class T>
void block_both(const ConvNetPlan& plan, const Shapes& shapes, const T* theta, const Packed<T>& packed,
                const T* direction, const Packed<T>& packed_direction, int64_t l, int64_t i, const T* normed,
                const T* normed_tangent, const TangentSpace<T>& space) {
    const BlockShape& block = shapes.block[l];
    block_forward<T>(plan, shapes, packed, theta, l, i, normed, space.maps);
    forward_tangent<T>(block, normed, normed_tangent, packed.scale_of(plan, theta, l), packed.shift_of(plan, theta, l),
                       packed_direction.scale_of(plan, direction, l), packed_direction.shift_of(plan, direction, l),
                       space.maps.statistics[l] + i * stats_size(block),
                       space.tangents.output(plan, l) + i * pooled_size(block),
                       space.tangents.statistics[l] + i * tangent_stats_size(block));
}

template <class T>
void block_backward_both(const ConvNetPlan& plan, const Shapes& shapes, const T* theta, const Packed<T>& packed,
                         const T* direction, const Packed<T>& packed_direction, int64_t l, int64_t i, T* normed,
                         T* normed_tangent, const TangentSpace<T>& space) {
    const BlockShape& block = shapes.block[l];
    const int64_t pooled = pooled_size(block);
    backward_tangent<T>(block, normed, normed_tangent, packed.scale_of(plan, theta, l), packed.shift_of(plan, theta, l),
                        packed_direction.scale_of(plan, direction, l), packed_direction.shift_of(plan, direction, l),
                        space.maps.statistics[l] + i * stats_size(block),
                        space.tangents.statistics[l] + i * tangent_stats_size(block),
                        space.maps.output_gradient(plan, l) + i * pooled,
                        space.tangents.output_gradient(plan, l) + i * pooled, normed, normed_tangent, space.scratch);
}

// Of images of one class: d/d images of <direction, d/d theta of scale * (the sum of their losses)>.
template <class T>
void image_gradients(const ConvNetPlan& plan, const T* theta, const T* packed_buffer, const T* direction,
                     const T* packed_direction_buffer, const T* images, int64_t label, int64_t count, T scale, T* out,
                     T* workspace) {
    const Shapes shapes(plan);
    const Packed<T> packed(plan, shapes, const_cast<T*>(packed_buffer));
    const Packed<T> along(plan, shapes, const_cast<T*>(packed_direction_buffer));
    const TangentSpace<T> space(plan, shapes, workspace);
    const Maps<T>&maps = space.maps, &tangents = space.tangents;
    const int64_t image_size = plan.channels * plan.height * plan.width, padded = padded_size<T>(plan, shapes);
    const int64_t features = plan.features, last = linear_features(plan, shapes);
    const int64_t height = shapes.block[0].height, width = shapes.block[0].width;
    for (int64_t begin = 0; begin < count; begin += space.images) {
        const int64_t group = count - begin < space.images ? count - begin : space.images;
        for (int64_t i = 0; i < group; ++i) {
            pad_image(plan, images + (begin + i) * image_size, space.padded + i * padded);
            first_both<T>(plan, shapes, theta, packed, direction, along, i, space);
            block_both<T>(plan, shapes, theta, packed, direction, along, 0, i, maps.normed[0], tangents.normed[0],
                          space);
        }
        for (int64_t l = 1; l < plan.depth; ++l) {
            const WinogradShape shape = shapes.convolution(l, group);
            const int64_t size = map_size(shapes.block[l]), rows = shape.tiles();
            transform_input<T>(shape, maps.input[l], space.transformed);
            transform_input<T>(shape, tangents.input[l], space.transformed_tangent);
            multiply<T>(rows, features, features, space.transformed, packed.forward[l], space.products, false);
            multiply<T>(rows, features, features, space.transformed_tangent, packed.forward[l], space.products_tangent,
                        false);
            multiply<T>(rows, features, features, space.transformed, along.forward[l], space.products_tangent, true);
            transform_output<T>(shape, space.products, bias_of(plan, theta, l), maps.normed[l]);
            transform_output<T>(shape, space.products_tangent, bias_of(plan, direction, l), tangents.normed[l]);
            for (int64_t i = 0; i < group; ++i) {
                block_both<T>(plan, shapes, theta, packed, direction, along, l, i, maps.normed[l] + i * size,
                              tangents.normed[l] + i * size, space);
            }
        }
        const T* bias = plan.linear_bias < 0 ? nullptr : theta + plan.linear_bias;
        const T* bias_tangent = plan.linear_bias < 0 ? nullptr : direction + plan.linear_bias;
        linear_forward<T>(group, last, plan.classes, maps.last, packed.linear, bias, maps.logits);
        linear_forward_tangent<T>(group, last, plan.classes, maps.last, tangents.last, packed.linear, along.linear,
                                  bias_tangent, tangents.logits);
        for (int64_t i = 0; i < group; ++i) space.labels[i] = label;
        softmax_loss<T>(group, plan.classes, maps.logits, space.labels, scale, maps.logits_gradient);
        softmax_tangent<T>(group, plan.classes, maps.logits, tangents.logits, space.labels, scale,
                           tangents.logits_gradient);
        linear_backward_tangent<T>(group, last, plan.classes, maps.logits_gradient, tangents.logits_gradient,
                                   packed.linear, along.linear, maps.last_gradient, tangents.last_gradient);
        for (int64_t l = plan.depth - 1; l > 0; --l) {
            const WinogradShape shape = shapes.convolution(l, group);
            const int64_t size = map_size(shapes.block[l]), rows = shape.tiles();
            for (int64_t i = 0; i < group; ++i) {
                block_backward_both<T>(plan, shapes, theta, packed, direction, along, l, i, maps.normed[l] + i * size,
                                       tangents.normed[l] + i * size, space);
            }
            transform_output_adjoint<T>(shape, maps.normed[l], space.products);
            transform_output_adjoint<T>(shape, tangents.normed[l], space.products_tangent);
            multiply<T>(rows, features, features, space.products, packed.backward[l], space.transformed, false);
            multiply<T>(rows, features, features, space.products_tangent, packed.backward[l], space.transformed_tangent,
                        false);
            multiply<T>(rows, features, features, space.products, along.backward[l], space.transformed_tangent, true);
            transform_input_adjoint<T>(shape, space.transformed, maps.input[l]);
            transform_input_adjoint<T>(shape, space.transformed_tangent, tangents.input[l]);
        }
        for (int64_t i = 0; i < group; ++i) {
            first_both<T>(plan, shapes, theta, packed, direction, along, i, space);
            block_backward_both<T>(plan, shapes, theta, packed, direction, along, 0, i, maps.normed[0],
                                   tangents.normed[0], space);
            first_conv_input_gradient<T>(plan.channels, features, height, width, tangents.normed[0], packed.first,
                                         false, space.first_scratch, space.framed);
            first_conv_input_gradient<T>(plan.channels, features, height, width, maps.normed[0], along.first, true,
                                         space.first_scratch, space.framed);
            const int64_t frame = plan.padding - 1;
            T* to = out + (begin + i) * image_size;
            for (int64_t c = 0; c < plan.channels; ++c) {
                for (int64_t y = 0; y < plan.height; ++y, to += plan.width) {
                    std::memcpy(to, space.framed + (c * height + y + frame) * width + frame, sizeof(T) * plan.width);
                }
            }
        }
    }
}

template <class T>
int64_t workspace_size(const ConvNetPlan& plan) {
    const Shapes shapes(plan);
    const int64_t gradient = GradientSpace<T>(plan, shapes, nullptr).arena.used;
    const int64_t tangent = TangentSpace<T>(plan, shapes, nullptr).arena.used;
    return gradient > tangent ? gradient : tangent;
}

template <class T>
void update(const T* gradients, int64_t parts, int64_t parameters, int64_t begin, int64_t end, T lr, T momentum,
            T weight_decay, T* velocity, T* theta) {
    for (int64_t i = begin; i < end; ++i) {
        T gradient = gradients[i];
        for (int64_t part = 1; part < parts; ++part) gradient += gradients[part * parameters + i];
        velocity[i] = momentum * velocity[i] + (gradient + weight_decay * theta[i]);
        theta[i] -= lr * velocity[i];
    }
}

template <class T>
void sum(const T* gradients, int64_t parts, int64_t parameters, int64_t begin, int64_t end, T* to) {
    for (int64_t i = begin; i < end; ++i) {
        T total = gradients[i];
        for (int64_t part = 1; part < parts; ++part) total += gradients[part * parameters + i];
        to[i] = total;
    }
}

template <class T>
constexpr ConvNetKernels<T> kernels_of() {
    return {packed_size<T>,     pack_pieces,        pack<T>,   workspace_size<T>, sums_size<T>, add_gradient<T>,
            unpack_gradient<T>, image_gradients<T>, logits<T>, update<T>,         sum<T>};
}

}  // namespace

namespace FASTDC_INSTRUCTION_SET {
const ConvNetKernels<float> convnet_kernels_float = kernels_of<float>();
#if !defined(__AVX512F__)
const ConvNetKernels<double> convnet_kernels_double = kernels_of<double>();
#endif
}  // namespace FASTDC_INSTRUCTION_SET

}  // namespace fastdc
