// Whole passes through a ConvNet on the CPU: gradients by weights and by images, training, features and logits.
//
// The network: `depth` blocks of convolution, norm, activation, 2x2 pooling and pooling by other windows, each with its
// own channels and of its own kinds, and one linear layer (norm_act_pool.h, window_pool.h, first_conv.h, winograd.h,
// patch_conv.h and linear_loss.h have the formulas). A linear layer before the last is the convolution of a block whose
// kernel is the whole map. The loss is cross-entropy. Weights, and gradients by them, are flat vectors [P] in torch's
// order; a ConvNetPlan says where each parameter lies.
//
//     class_gradients   out[c] = d/d theta of the mean loss of images[c], all of which are of class labels[c]  [C, P]
//     image_gradients   out[c, i] = d/d images[c, i] of <cotangent[c], class gradient c>, by forward over reverse
//                                                                                                         [C, n, ...]
//     hessian_products  by_weights, by_images = the gradients of <direction, d/d theta of the mean loss of all images>
//                                                                                                    [P], [C, n, ...]
//     train             SGD with momentum and weight decay over batches in a given order, with soft labels and
//                       distillation                                                            theta, velocity [P]
//     outputs           of images: logits, or the features that the linear layer reads, in torch's order [C, h, w]
//                                                                                                     [N, K] or [N, F]
//     output_gradients  out = d/d images of <cotangent, outputs>                                              [N, ...]
//
// The passes forward and back of class_gradients are also the first half of image_gradients. A record keeps what they
// leave: class_gradients writes it and image_gradients reads it, both with the same theta, images, C and n. Without one
// (null) image_gradients goes through those passes again.
//
// Images [N, channels, height, width] are planar, as torch has them. A few images at a time go through the whole
// network and back, while their maps stay in the cache; memory does not grow with the number of images. Tasks are cut
// and partial sums added in a way that depends on shapes alone: results have the same bits for any number of threads.
#pragma once

#include <cstdint>

#include "cpu/block_parts.h"

namespace fastdc {

constexpr int kMostBlocks = 16;

struct ConvNetPlan {
    int64_t channels, height, width;  // of an image
    int64_t depth, classes;
    int64_t parameters;  // P
    int64_t sharing;     // images for which weights are packed once, where these are few; 0: there may be many
    // Of each block: its channels, a multiple of 8; its convolution; the groups of a group norm; its parts, as the
    // enums of block_parts.h; what its norm adds to variances, and the slope of a leaky activation.
    int64_t features[kMostBlocks];
    int64_t kernel_height[kMostBlocks], kernel_width[kMostBlocks], stride[kMostBlocks], padding[kMostBlocks];
    int64_t groups[kMostBlocks];
    int norm[kMostBlocks], activation[kMostBlocks], pooling[kMostBlocks];
    double epsilon[kMostBlocks], slope[kMostBlocks];
    Windows windows[kMostBlocks];  // that pool after it
    // Where each parameter begins in theta; -1: there is none.
    int64_t weight[kMostBlocks], bias[kMostBlocks], gamma[kMostBlocks], beta[kMostBlocks];
    int64_t linear_weight, linear_bias;
    // Statistics of a batch norm, by channel; null for other norms. They are taken as they stand, but in training:
    // there the norm takes those of the batch, and they move towards these by `momentum`.
    void* mean[kMostBlocks];
    void* variance[kMostBlocks];
    double momentum[kMostBlocks];
    // Whether products of float are rounded, where has_bfloat16: see operands.h.
    bool bfloat16;
};

inline bool is_batch_norm(const ConvNetPlan& plan, int64_t l) {
    return plan.norm[l] == static_cast<int>(Norm::kBatch);
}

struct SgdOptions {
    int64_t batch;
    double lr, momentum, weight_decay;
};

// What training is to keep, added to its loss: see linear_loss.h.
template <class T>
struct Distilled {
    const T* shares;  // [N, kept]; null: nothing is distilled
    int64_t kept;     // classes of all groups, the network's first
    int64_t groups;
    const int64_t* classes;  // of each group, [groups]
    T temperature;
};

enum class Output { kLogits, kFeatures };

// Images of C classes, n of each: [C, n, channels, height, width].
template <class T>
struct ClassImages {
    const T* images;
    int64_t classes, each;
};

// The class of each image [N]; or, where its labels are soft, its shares of the classes [N, K] and no class.
template <class T>
struct Labels {
    const int64_t* classes;
    const T* shares = nullptr;
};

// Images [N, channels, height, width] with their labels.
template <class T>
struct LabelledImages {
    const T* images;
    Labels<T> labels;
    int64_t count;
};

// Weights while they are trained, and the velocity of their momentum, [P] each.
template <class T>
struct Moving {
    T* theta;
    T* velocity;
};

// The order in which images are drawn: their positions, [epochs, N].
struct Order {
    const int64_t* index;
    int64_t epochs;
};

// Elements of the record of `classes` times `each` images.
template <class T>
int64_t record_size(const ConvNetPlan& plan, int64_t classes, int64_t each);

template <class T>
void class_gradients(const ConvNetPlan& plan, const T* theta, const ClassImages<T>& data, const int64_t* labels,
                     T* record, T* out, int threads);

template <class T>
void image_gradients(const ConvNetPlan& plan, const T* theta, const ClassImages<T>& data, const int64_t* labels,
                     const T* cotangent, T* record, T* out, int threads);

template <class T>
void hessian_products(const ConvNetPlan& plan, const T* theta, const ClassImages<T>& data, const int64_t* labels,
                      const T* direction, T* by_weights, T* by_images, int threads);

template <class T>
void train(const ConvNetPlan& plan, const Moving<T>& weights, const LabelledImages<T>& data, const Order& order,
           const Distilled<T>& distilled, const SgdOptions& sgd, int threads);

// A step of training in two halves, for processes that share it: how many parts a batch is cut into; the gradients
// [count, P] of some of them, in a network without batch norm; and the step by gradients [count, P], added up in order.
int64_t batch_parts(int64_t batch);

template <class T>
void part_gradients(const ConvNetPlan& plan, const T* theta, const LabelledImages<T>& batch, int64_t first,
                    int64_t count, T* gradients, int threads);

template <class T>
void move(const ConvNetPlan& plan, const Moving<T>& weights, const T* gradients, int64_t count, const SgdOptions& sgd,
          int threads);

// How many numbers of an output each image has: K or F.
template <class T>
int64_t output_size(const ConvNetPlan& plan, Output output);

template <class T>
void outputs(const ConvNetPlan& plan, const T* theta, const T* images, int64_t count, Output output, T* out,
             int threads);

template <class T>
void output_gradients(const ConvNetPlan& plan, const T* theta, const T* images, int64_t count, Output output,
                      const T* cotangent, T* out, int threads);

// Weights, or a direction in their space: in torch's order [P], and as the stages want them.
template <class T>
struct PackedTheta {
    const T* theta;
    const T* packed;
};

// Images that one thread works on. With an index, the i-th is images[index[i]] with the labels at index[i]; without one
// (null), it is images[i], and all are of the first class.
template <class T>
struct ImageRun {
    const T* images;
    Labels<T> labels;
    const int64_t* index;
    int64_t count;
    T scale;  // of the loss of each
};

// Vectors [parts, P] that are to be added up.
template <class T>
struct PartialSums {
    const T* parts;
    int64_t count;
    int64_t size;  // P
};

struct Range {
    int64_t begin, end;
};

// A part of a batch that is trained block by block, all of the batch at a time, and what it leaves on the way.
template <class T>
struct BatchPart {
    ImageRun<T> run;
    int64_t first;  // of its images in the batch
    T* maps;        // [batch_maps_size]
    T* sums;        // [sums_size]
    T* by_image;    // of the batch [images, 2, C]: mean and squares of a map (batch_norm.h), or sums of gy and gy d
};

// The same of all images of the batch, in order.
template <class T>
struct ByImage {
    const T* values;
    int64_t count;
};

// What differs between instruction sets. One call is the work of one thread. Buffers start at 64 bytes; their sizes, in
// elements, come from the functions named after them.
template <class T>
struct ConvNetKernels {
    // Weights as the stages want them; `piece` of `pack_pieces` is one thread's share.
    int64_t (*packed_size)(const ConvNetPlan&);
    int64_t (*pack_pieces)(const ConvNetPlan&);
    void (*pack)(const ConvNetPlan&, const T* theta, int64_t piece, T* packed);

    int64_t (*workspace_size)(const ConvNetPlan&);  // of any of the passes
    int64_t (*record_size)(const ConvNetPlan&, int64_t count);
    // Records may be null. Gradients by the weights in the layout of the stages; to be cleared before the first pass,
    // and unpacked after the last.
    int64_t (*sums_size)(const ConvNetPlan&);
    void (*add_gradient)(const ConvNetPlan&, const PackedTheta<T>& theta, const ImageRun<T>& run,
                         const Distilled<T>& distilled, T* sums, T* record, T* workspace);
    void (*unpack_gradient)(const ConvNetPlan&, const T* sums, T* gradient);

    void (*image_gradients)(const ConvNetPlan&, const PackedTheta<T>& theta, const PackedTheta<T>& direction,
                            const ImageRun<T>& run, T* record, T* out, T* workspace);
    void (*add_hessian_product)(const ConvNetPlan&, const PackedTheta<T>& theta, const PackedTheta<T>& direction,
                                const ImageRun<T>& run, T* sums, T* out, T* workspace);

    // A batch whose norms go over all of it: see batch_norm.h. Parts in any order, steps as they stand there.
    int64_t (*batch_maps_size)(const ConvNetPlan&, int64_t count);
    void (*batch_forward)(const ConvNetPlan&, const PackedTheta<T>& theta, const BatchPart<T>& part,
                          const Distilled<T>& distilled, int64_t step, T* workspace);
    void (*batch_backward)(const ConvNetPlan&, const PackedTheta<T>& theta, const BatchPart<T>& part,
                           const T* coefficients, int64_t l, T* workspace);
    void (*batch_statistics)(const ConvNetPlan&, int64_t l, const ByImage<T>& moments, T* mean, T* variance);
    void (*batch_coefficients)(const ConvNetPlan&, const T* theta, int64_t l, const ByImage<T>& from, T* coefficients,
                               T* sums);

    int64_t (*output_size)(const ConvNetPlan&, Output output);
    void (*outputs)(const ConvNetPlan&, const PackedTheta<T>& theta, const T* images, int64_t count, Output output,
                    T* out, T* workspace);
    void (*output_gradients)(const ConvNetPlan&, const PackedTheta<T>& theta, const T* images, int64_t count,
                             Output output, const T* cotangent, T* out, T* workspace);
    // velocity = momentum velocity + sum of gradients + weight_decay theta; theta -= lr velocity.
    void (*update)(const PartialSums<T>& gradients, Range elements, const SgdOptions& sgd, T* velocity, T* theta);
    // to = sum of parts.
    void (*sum)(const PartialSums<T>& from, Range elements, T* to);
};

namespace baseline {
extern const ConvNetKernels<float> convnet_kernels_float;
extern const ConvNetKernels<double> convnet_kernels_double;
}  // namespace baseline
namespace avx2 {
extern const ConvNetKernels<float> convnet_kernels_float;
extern const ConvNetKernels<double> convnet_kernels_double;
}  // namespace avx2
namespace avx512 {
extern const ConvNetKernels<float>
    convnet_kernels_float;  // double, which is for checking, goes by avx2: it compiles for long
}  // namespace avx512
namespace avx512_bfloat16 {
extern const ConvNetKernels<float> convnet_kernels_float;
}  // namespace avx512_bfloat16

}  // namespace fastdc
