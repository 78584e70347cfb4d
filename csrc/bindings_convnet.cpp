#include "bindings_convnet.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "cpu/block_parts.h"
#include "cpu/convnet.h"
#include "cpu/instruction_set.h"
#include "long_work.h"

namespace py = pybind11;

namespace fastdc {
namespace {

// What a block is made of, the groups of a group norm, what a norm adds to variances, and the slope of a leaky
// activation.
struct Layers {
    Norm norm;
    int64_t groups;
    Activation activation;
    Pooling pooling;
    double epsilon, slope;
};

// Where something begins in theta, if it is there.
using Place = std::optional<int64_t>;

// How a convolution moves over a map.
struct Convolution {
    std::pair<int64_t, int64_t> kernel;
    int64_t stride, padding;
};

// A block: its channels and parts, where its parameters lie, and the statistics of its batch norm, which training moves
// on by `momentum`.
struct Block {
    int64_t features;
    Convolution convolution;
    Layers layers;
    std::optional<Windows> windows;
    int64_t weight;
    Place bias, gamma, beta;
    std::optional<py::array> mean, variance;
    double momentum;
};

// What training is to keep: see Distilled.
struct Distillation {
    py::array shares;
    std::vector<int64_t> groups;
    double temperature;
};

// Elements of the maps of all blocks that a record may be asked for.
constexpr int64_t kMostInRecord = int64_t{1} << 44;

// A plan, with the statistics of batch norms kept alive beside it, and the fewest numbers that one of them has of a
// channel of one image.
struct Network {
    ConvNetPlan plan{};
    std::vector<py::array> statistics;
    int64_t fewest = INT64_MAX, most = 0;
};

void check_range(const char* name, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most) {
        refuse(name, std::to_string(value), std::to_string(least) + " to " + std::to_string(most));
    }
}

// The product of sizes, or more than any theta can hold.
int64_t product(std::initializer_list<int64_t> sizes) {
    int64_t result = 1;
    for (const int64_t size : sizes) {
        if (__builtin_mul_overflow(result, size, &result)) return INT64_MAX;
    }
    return result;
}

// Refuses what does not lie within a theta of `parameters` elements; returns where it begins.
int64_t place_within(int64_t parameters, const char* name, int64_t begin, int64_t size) {
    if (begin < 0 || size > parameters || begin > parameters - size) {
        refuse(name, "at " + std::to_string(begin), "a place of " + std::to_string(size) + " elements in theta");
    }
    return begin;
}

// The same of what may be missing: -1 then.
int64_t place_if_any(int64_t parameters, const char* name, const Place& begin, int64_t size) {
    return begin ? place_within(parameters, name, *begin, size) : -1;
}

// The same of what only a network without norms may miss.
int64_t place_of_norm(Norm norm, int64_t parameters, const char* name, const Place& begin, int64_t size) {
    if (!begin && norm != Norm::kNone)
        refuse(name, "None", "a place of " + std::to_string(size) + " elements in theta");
    return place_if_any(parameters, name, begin, size);
}

constexpr int64_t kLargest = 1 << 16;  // of sizes: channels, sides of maps and kernels, strides, classes

void check_sizes(const ConvNetPlan& plan) {
    check_range("channels", plan.channels, 1, kLargest);
    check_range("height", plan.height, 1, kLargest);
    check_range("width", plan.width, 1, kLargest);
    check_range("classes", plan.classes, 1, kLargest);
    for (int64_t l = 0; l < plan.depth; ++l) {
        const int64_t features = plan.features[l], groups = plan.groups[l];
        check_range("features", features, 8, kLargest);
        if (features % 8) refuse("features", std::to_string(features), "a multiple of 8");
        check_range("kernel", plan.kernel_height[l], 1, kLargest);
        check_range("kernel", plan.kernel_width[l], 1, kLargest);
        check_range("stride", plan.stride[l], 1, kLargest);
        check_range("padding", plan.padding[l], 0, 16);
        check_range("groups", groups, 1, features);
        if (features % groups) refuse("groups", std::to_string(groups), "a divisor of features");
        if (!(plan.epsilon[l] > 0 && std::isfinite(plan.epsilon[l])))
            refuse("epsilon", std::to_string(plan.epsilon[l]), "more than 0 and finite");
        if (!(plan.slope[l] >= 0 && std::isfinite(plan.slope[l])))
            refuse("slope", std::to_string(plan.slope[l]), "0 or more, and finite");
    }
}

void check_windows(const WindowSide& side) {
    check_range("kernel", side.kernel, 1, kLargest);
    check_range("stride", side.stride, 1, kLargest);
    check_range("padding", side.padding, 0, side.kernel / 2);
}

void* statistics_in(const char* name, const std::optional<py::array>& array, int64_t features, Network& network) {
    if (!array) refuse(name, "None", "that of every batch norm");
    if (array->ndim() != 1 || array->shape(0) != features || !(array->flags() & py::array::c_style)) {
        refuse(name, describe(*array), "[" + std::to_string(features) + "], contiguous");
    }
    network.statistics.push_back(*array);
    return const_cast<void*>(array->data());  // written to by training alone, which asks first
}

// How many windows of a kernel a side has.
int64_t windows(int64_t side, int64_t kernel, int64_t stride, int64_t padding) {
    side += 2 * padding;
    if (kernel > side) refuse("kernel", std::to_string(kernel), std::to_string(side) + " or less, as its map");
    return (side - kernel) / stride + 1;
}

void check_left(const ConvNetPlan& plan, int64_t height, int64_t width) {
    if (!height || !width)
        refuse("blocks", std::to_string(plan.depth), "less pooling than leaves nothing of the image");
}

// Every parameter lies within theta, and no sizes overflow.
Network network(const std::array<int64_t, 3>& image, int64_t classes, const std::vector<Block>& blocks,
                const std::pair<int64_t, Place>& classifier, int64_t parameters, bool bfloat16) {
    if (bfloat16 && !has_bfloat16()) refuse("bfloat16", "True", "a processor that has AVX-512 BF16");
    Network result;
    ConvNetPlan& plan = result.plan;
    plan.channels = image[0];
    plan.height = image[1];
    plan.width = image[2];
    plan.depth = static_cast<int64_t>(blocks.size());
    check_range("blocks", plan.depth, 1, kMostBlocks);
    plan.classes = classes;
    for (size_t l = 0; l < blocks.size(); ++l) {
        const Layers& layers = blocks[l].layers;
        const Convolution& convolution = blocks[l].convolution;
        plan.features[l] = blocks[l].features;
        plan.kernel_height[l] = convolution.kernel.first;
        plan.kernel_width[l] = convolution.kernel.second;
        plan.stride[l] = convolution.stride;
        plan.padding[l] = convolution.padding;
        plan.groups[l] = layers.groups;
        plan.norm[l] = static_cast<int>(layers.norm);
        plan.activation[l] = static_cast<int>(layers.activation);
        plan.pooling[l] = static_cast<int>(layers.pooling);
        plan.epsilon[l] = layers.epsilon;
        plan.slope[l] = layers.slope;
    }
    plan.parameters = parameters;
    plan.bfloat16 = bfloat16;
    check_sizes(plan);
    result.most = product({plan.channels, plan.height, plan.width});
    int64_t height = plan.height, width = plan.width, before = plan.channels;
    for (int64_t l = 0; l < plan.depth; ++l) {
        const Block& block = blocks[static_cast<size_t>(l)];
        const Layers& layers = block.layers;
        const int64_t features = block.features, rows = plan.kernel_height[l], columns = plan.kernel_width[l];
        height = windows(height, rows, plan.stride[l], plan.padding[l]);
        width = windows(width, columns, plan.stride[l], plan.padding[l]);
        result.most = std::max(result.most, product({features, height, width}));
        const int64_t affine = layers.norm == Norm::kLayer ? product({features, height, width}) : features;
        plan.weight[l] = place_within(parameters, "weight", block.weight, product({features, before, rows, columns}));
        plan.bias[l] = place_if_any(parameters, "bias", block.bias, features);
        plan.gamma[l] = place_of_norm(layers.norm, parameters, "gamma", block.gamma, affine);
        plan.beta[l] = place_of_norm(layers.norm, parameters, "beta", block.beta, affine);
        if (layers.norm == Norm::kBatch) {
            plan.mean[l] = statistics_in("mean", block.mean, features, result);
            plan.variance[l] = statistics_in("variance", block.variance, features, result);
            plan.momentum[l] = block.momentum;
            result.fewest = std::min(result.fewest, height * width);
        }
        if (layers.pooling != Pooling::kNone) {
            height /= 2;
            width /= 2;
        }
        check_left(plan, height, width);
        if (block.windows) {
            check_windows(block.windows->rows);
            check_windows(block.windows->columns);
            plan.windows[l] = *block.windows;
            height = window_count(plan.windows[l], plan.windows[l].rows, height);
            width = window_count(plan.windows[l], plan.windows[l].columns, width);
            check_left(plan, height, width);
            result.most = std::max(result.most, product({features, height, width}));
        }
        before = features;
    }
    plan.linear_weight =
        place_within(parameters, "linear_weight", classifier.first, product({classes, before, height, width}));
    plan.linear_bias = place_if_any(parameters, "linear_bias", classifier.second, classes);
    return result;
}

std::string in_brackets(const std::vector<int64_t>& shape) {
    std::string result;
    for (const int64_t size : shape) result += (result.empty() ? "" : ", ") + std::to_string(size);
    return "[" + result + "]";
}

template <class T>
bool fits(const py::array& array, const std::vector<int64_t>& shape) {
    return array.ndim() == static_cast<py::ssize_t>(shape.size()) &&
           std::equal(shape.begin(), shape.end(), array.shape()) && array.dtype().equal(py::dtype::of<T>()) &&
           (array.flags() & py::array::c_style) && reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) == 0;
}

template <class T>
void check_input(const char* name, const py::array& array, const std::vector<int64_t>& shape) {
    if (!fits<T>(array, shape)) {
        refuse(name, describe(array),
               std::string(py::str(py::dtype::of<T>())) + " " + in_brackets(shape) + ", contiguous, aligned");
    }
}

template <class T>
void check_output(const char* name, const py::array& array, const std::vector<int64_t>& shape) {
    if (!fits<T>(array, shape) || !array.writeable()) {
        refuse(name, describe(array),
               std::string(py::str(py::dtype::of<T>())) + " " + in_brackets(shape) +
                   ", contiguous, aligned and writeable");
    }
}

template <class T>
void check_common(const Network& network, const py::array& theta, int threads) {
    check_input<T>("theta", theta, {network.plan.parameters});
    for (const py::array& array : network.statistics) check_input<T>("statistics", array, {array.shape(0)});
    check_range("threads", threads, 1, 1 << 12);
}

void check_labels(const py::array& labels, int64_t count, int64_t classes) {
    check_input<int64_t>("labels", labels, {count});
    const auto* label = static_cast<const int64_t*>(labels.data());
    for (int64_t i = 0; i < count; ++i) check_range("labels", label[i], 0, classes - 1);
}

template <class T>
const T* in(const py::array& array) {
    return static_cast<const T*>(array.data());
}
template <class T>
T* out(py::array& array) {
    return static_cast<T*>(array.mutable_data());
}

// Calls function with a float or a double, as theta has them.
template <class Function>
void with_type(const py::array& theta, Function function) {
    if (theta.dtype().equal(py::dtype::of<float>())) return function(float{});
    if (theta.dtype().equal(py::dtype::of<double>())) return function(double{});
    refuse("theta", describe(theta), "float32 or float64");
}

// A record of images [C, n, ...], or none.
template <class T>
T* record_of(const Network& network, std::optional<py::array>& record, int64_t classes, int64_t each) {
    if (!record) return nullptr;
    check_output<T>("record", *record, {record_size<T>(network.plan, classes, each)});
    return out<T>(*record);
}

int64_t record_size_of(const Network& network, int64_t classes, int64_t each, bool of_double) {
    check_range("classes", classes, 0, int64_t{1} << 20);
    check_range("each", each, 1, int64_t{1} << 24);
    const ConvNetPlan& plan = network.plan;
    const int64_t maps = product({classes, each, plan.depth, network.most});
    // A record holds several times these elements, which must not overflow.
    if (maps > kMostInRecord) {
        refuse("classes", std::to_string(classes) + " of " + std::to_string(each) + " images each",
               "maps of " + std::to_string(kMostInRecord) + " elements at the most");
    }
    return of_double ? record_size<double>(network.plan, classes, each)
                     : record_size<float>(network.plan, classes, each);
}

int64_t first_of(const char* name, const py::array& images, py::ssize_t dimensions) {
    if (images.ndim() != dimensions) refuse(name, describe(images), std::to_string(dimensions) + " dimensions");
    return images.shape(0);
}

void class_gradients_of(const Network& network, const py::array& theta, const py::array& images,
                        const py::array& labels, py::array& gradients, std::optional<py::array> record, int threads) {
    with_type(theta, [&](auto zero) {
        using T = decltype(zero);
        const ConvNetPlan& plan = network.plan;
        const int64_t classes = first_of("images", images, 5), each = images.shape(1);
        check_common<T>(network, theta, threads);
        check_input<T>("images", images, {classes, each, plan.channels, plan.height, plan.width});
        if (each < 1) refuse("images", describe(images), "at least one of every class");
        check_labels(labels, classes, plan.classes);
        check_output<T>("gradients", gradients, {classes, plan.parameters});
        const T *weights = in<T>(theta), *from = in<T>(images);
        const auto* label = in<int64_t>(labels);
        T *to = out<T>(gradients), *kept = record_of<T>(network, record, classes, each);
        do_long_work([&] { class_gradients<T>(plan, weights, {from, classes, each}, label, kept, to, threads); });
    });
}

void image_gradients_of(const Network& network, const py::array& theta, const py::array& images,
                        const py::array& cotangent, const py::array& labels, py::array& gradients,
                        std::optional<py::array> record, int threads) {
    with_type(theta, [&](auto zero) {
        using T = decltype(zero);
        const ConvNetPlan& plan = network.plan;
        const int64_t classes = first_of("images", images, 5), each = images.shape(1);
        const std::vector<int64_t> shape{classes, each, plan.channels, plan.height, plan.width};
        check_common<T>(network, theta, threads);
        check_input<T>("images", images, shape);
        if (each < 1) refuse("images", describe(images), "at least one of every class");
        check_labels(labels, classes, plan.classes);
        check_input<T>("cotangent", cotangent, {classes, plan.parameters});
        check_output<T>("gradients", gradients, shape);
        const T *weights = in<T>(theta), *from = in<T>(images), *along = in<T>(cotangent);
        const auto* label = in<int64_t>(labels);
        T *to = out<T>(gradients), *kept = record_of<T>(network, record, classes, each);
        do_long_work(
            [&] { image_gradients<T>(plan, weights, {from, classes, each}, label, along, kept, to, threads); });
    });
}

void hessian_products_of(const Network& network, const py::array& theta, const py::array& images,
                         const py::array& direction, const py::array& labels, py::array& by_weights,
                         py::array& by_images, int threads) {
    with_type(theta, [&](auto zero) {
        using T = decltype(zero);
        const ConvNetPlan& plan = network.plan;
        const int64_t classes = first_of("images", images, 5), each = images.shape(1);
        const std::vector<int64_t> shape{classes, each, plan.channels, plan.height, plan.width};
        check_common<T>(network, theta, threads);
        check_input<T>("images", images, shape);
        if (classes < 1 || each < 1) refuse("images", describe(images), "at least one");
        check_labels(labels, classes, plan.classes);
        check_input<T>("direction", direction, {plan.parameters});
        check_output<T>("by_weights", by_weights, {plan.parameters});
        check_output<T>("by_images", by_images, shape);
        const T *weights = in<T>(theta), *from = in<T>(images), *along = in<T>(direction);
        const auto* label = in<int64_t>(labels);
        T *product = out<T>(by_weights), *moved = out<T>(by_images);
        do_long_work(
            [&] { hessian_products<T>(plan, weights, {from, classes, each}, label, along, product, moved, threads); });
    });
}

// What is kept of `count` images, if anything.
template <class T>
Distilled<T> distilled_of(const ConvNetPlan& plan, int64_t count, const Distillation* distillation) {
    if (!distillation) return {};
    const std::vector<int64_t>& groups = distillation->groups;
    int64_t kept = 0;
    for (const int64_t classes : groups) {
        if (classes < 1 || classes > plan.classes - kept) {
            refuse("groups", std::string(py::str(py::cast(groups))),
                   "1 or more classes each, and at most " + std::to_string(plan.classes) + " in all");
        }
        kept += classes;
    }
    check_input<T>("shares", distillation->shares, {count, kept});
    const double temperature = distillation->temperature;
    if (!(temperature > 0)) refuse("temperature", std::to_string(temperature), "more than 0");
    return {in<T>(distillation->shares), kept, static_cast<int64_t>(groups.size()), groups.data(),
            static_cast<T>(temperature)};
}

// The classes int64 [count] of as many images, or their shares of the classes [count, K].
template <class T>
Labels<T> labels_of(const ConvNetPlan& plan, int64_t count, const py::array& labels) {
    if (labels.ndim() == 2) {
        check_input<T>("labels", labels, {count, plan.classes});
        return {nullptr, in<T>(labels)};
    }
    check_labels(labels, count, plan.classes);
    return {in<int64_t>(labels)};
}

void train_on(const Network& network, py::array& theta, py::array& velocity, const py::array& images,
              const py::array& labels, const py::array& order, const SgdOptions& sgd, const Distillation* distillation,
              int threads) {
    with_type(theta, [&](auto zero) {
        using T = decltype(zero);
        const ConvNetPlan& plan = network.plan;
        const int64_t count = first_of("images", images, 4), epochs = first_of("order", order, 2);
        check_common<T>(network, theta, threads);
        check_output<T>("theta", theta, {plan.parameters});
        check_output<T>("velocity", velocity, {plan.parameters});
        check_input<T>("images", images, {count, plan.channels, plan.height, plan.width});
        const Labels<T> label = labels_of<T>(plan, count, labels);
        check_input<int64_t>("order", order, {epochs, count});
        for (int64_t i = 0; i < epochs * count; ++i) check_range("order", in<int64_t>(order)[i], 0, count - 1);
        if (sgd.batch < 1) refuse("batch", std::to_string(sgd.batch), "1 or more");
        for (py::array statistics : network.statistics)
            check_output<T>("statistics", statistics, {statistics.shape(0)});
        const int64_t last = count % sgd.batch ? count % sgd.batch : std::min(count, sgd.batch);
        if (last == 1 && network.fewest == 1) {
            refuse("batch", std::to_string(sgd.batch),
                   "a size of which no batch has one number of each channel of a batch norm, as one image has here");
        }
        const Distilled<T> distilled = distilled_of<T>(plan, count, distillation);
        const T* from = in<T>(images);
        const auto* index = in<int64_t>(order);
        const Moving<T> weights = {out<T>(theta), out<T>(velocity)};
        do_long_work([&] { train<T>(plan, weights, {from, label, count}, {index, epochs}, distilled, sgd, threads); });
    });
}

void part_gradients_of(const Network& network, const py::array& theta, const py::array& images, const py::array& labels,
                       py::array& gradients, int64_t first, int threads) {
    with_type(theta, [&](auto zero) {
        using T = decltype(zero);
        const ConvNetPlan& plan = network.plan;
        const int64_t count = first_of("images", images, 4), rows = first_of("gradients", gradients, 2);
        check_common<T>(network, theta, threads);
        check_input<T>("images", images, {count, plan.channels, plan.height, plan.width});
        const Labels<T> label = labels_of<T>(plan, count, labels);
        check_output<T>("gradients", gradients, {rows, plan.parameters});
        if (!network.statistics.empty()) refuse("norm", "batch", "one that takes no statistics of the whole batch");
        const int64_t parts = batch_parts(count);
        if (count < 1) refuse("images", describe(images), "at least one");
        if (rows > parts) refuse("gradients", describe(gradients), "no more rows than parts: " + std::to_string(parts));
        if (first < 0 || first > parts - rows) {
            refuse("first", std::to_string(first), "0 to " + std::to_string(parts - rows));
        }
        const T *weights = in<T>(theta), *from = in<T>(images);
        T* to = out<T>(gradients);
        do_long_work([&] { part_gradients<T>(plan, weights, {from, label, count}, first, rows, to, threads); });
    });
}

void move_by(const Network& network, py::array& theta, py::array& velocity, const py::array& gradients,
             const SgdOptions& sgd, int threads) {
    with_type(theta, [&](auto zero) {
        using T = decltype(zero);
        const ConvNetPlan& plan = network.plan;
        const int64_t count = first_of("gradients", gradients, 2);
        check_common<T>(network, theta, threads);
        check_output<T>("theta", theta, {plan.parameters});
        check_output<T>("velocity", velocity, {plan.parameters});
        check_input<T>("gradients", gradients, {count, plan.parameters});
        const Moving<T> weights = {out<T>(theta), out<T>(velocity)};
        const T* from = in<T>(gradients);
        do_long_work([&] { move<T>(plan, weights, from, count, sgd, threads); });
    });
}

// Writes an output, called `name`, of images [N, ...].
void outputs_of(const Network& network, const py::array& theta, const py::array& images, Output output,
                const char* name, py::array& result, int threads) {
    with_type(theta, [&](auto zero) {
        using T = decltype(zero);
        const ConvNetPlan& plan = network.plan;
        const int64_t count = first_of("images", images, 4);
        check_common<T>(network, theta, threads);
        check_input<T>("images", images, {count, plan.channels, plan.height, plan.width});
        check_output<T>(name, result, {count, output_size<T>(plan, output)});
        const T *weights = in<T>(theta), *from = in<T>(images);
        T* to = out<T>(result);
        do_long_work([&] { outputs<T>(plan, weights, from, count, output, to, threads); });
    });
}

void output_gradients_of(const Network& network, const py::array& theta, const py::array& images, Output output,
                         const py::array& cotangent, py::array& gradients, int threads) {
    with_type(theta, [&](auto zero) {
        using T = decltype(zero);
        const ConvNetPlan& plan = network.plan;
        const int64_t count = first_of("images", images, 4);
        const std::vector<int64_t> shape{count, plan.channels, plan.height, plan.width};
        check_common<T>(network, theta, threads);
        check_input<T>("images", images, shape);
        check_input<T>("cotangent", cotangent, {count, output_size<T>(plan, output)});
        check_output<T>("gradients", gradients, shape);
        const T *weights = in<T>(theta), *from = in<T>(images), *along = in<T>(cotangent);
        T* to = out<T>(gradients);
        do_long_work([&] { output_gradients<T>(plan, weights, from, count, output, along, to, threads); });
    });
}

void logits_of(const Network& network, const py::array& theta, const py::array& images, py::array& logits,
               int threads) {
    outputs_of(network, theta, images, Output::kLogits, "logits", logits, threads);
}

void features_of(const Network& network, const py::array& theta, const py::array& images, py::array& features,
                 int threads) {
    outputs_of(network, theta, images, Output::kFeatures, "features", features, threads);
}

void logit_gradients_of(const Network& network, const py::array& theta, const py::array& images,
                        const py::array& cotangent, py::array& gradients, int threads) {
    output_gradients_of(network, theta, images, Output::kLogits, cotangent, gradients, threads);
}

void feature_gradients_of(const Network& network, const py::array& theta, const py::array& images,
                          const py::array& cotangent, py::array& gradients, int threads) {
    output_gradients_of(network, theta, images, Output::kFeatures, cotangent, gradients, threads);
}

}  // namespace

void bind_convnet(py::module_& module) {
    module.attr("NORMS") = names_in(kNorms);
    module.attr("ACTIVATIONS") = names_in(kActivations);
    module.attr("POOLINGS") = names_in(kPoolings);
    module.attr("WINDOW_KINDS") = names_in(kWindowKinds);
    module.attr("MOST_BLOCKS") = kMostBlocks;
    module.attr("LARGEST_SIZE") = kLargest;
    module.attr("BFLOAT16") = has_bfloat16();
    const auto array = [](const char* name) { return py::arg(name).noconvert(); };
    const auto array_or_none = [](const char* name) { return py::arg(name).noconvert() = py::none(); };
    py::class_<Layers>(module, "Layers",
                       "What every block is made of, by the names in NORMS, ACTIVATIONS and POOLINGS.")
        .def(py::init([](const std::string& norm, const std::string& activation, const std::string& pooling,
                         int64_t groups, double epsilon, double slope) {
                 return Layers{
                     value_of(kNorms, "norm", norm),          groups,  value_of(kActivations, "activation", activation),
                     value_of(kPoolings, "pooling", pooling), epsilon, slope};
             }),
             py::kw_only(), py::arg("norm"), py::arg("activation"), py::arg("pooling"), py::arg("groups") = 1,
             py::arg("epsilon") = 1e-5, py::arg("slope") = 0.01);
    py::class_<Convolution>(module, "Convolution", "How the convolution of a block moves over its map.")
        .def(py::init([](std::pair<int64_t, int64_t> kernel, int64_t stride, int64_t padding) {
                 return Convolution{kernel, stride, padding};
             }),
             py::kw_only(), py::arg("kernel"), py::arg("stride") = 1, py::arg("padding") = 0);
    py::class_<Windows>(module, "Windows", "Pooling by windows of any size, of a kind in WINDOW_KINDS.")
        .def(py::init([](const std::string& kind, std::pair<int64_t, int64_t> kernel,
                         std::pair<int64_t, int64_t> stride, std::pair<int64_t, int64_t> padding) {
                 return Windows{value_of(kWindowKinds, "kind", kind),
                                {kernel.first, stride.first, padding.first},
                                {kernel.second, stride.second, padding.second}};
             }),
             py::kw_only(), py::arg("kind"), py::arg("kernel"), py::arg("stride") = std::pair<int64_t, int64_t>{1, 1},
             py::arg("padding") = std::pair<int64_t, int64_t>{0, 0});
    py::class_<Block>(
        module, "Block",
        "A block's channels and parts, where its parameters begin in theta, and the statistics of a batch norm, which "
        "training moves on by its momentum.")
        .def(py::init([](int64_t features, const Convolution& convolution, const Layers& layers, int64_t weight,
                         std::optional<Windows> windows, Place bias, Place gamma, Place beta,
                         std::optional<py::array> mean, std::optional<py::array> variance, double momentum) {
                 return Block{features,        convolution,         layers,  windows, weight, bias, gamma, beta,
                              std::move(mean), std::move(variance), momentum};
             }),
             py::kw_only(), py::arg("features"), py::arg("convolution"), py::arg("layers"), py::arg("weight"),
             py::arg("windows") = py::none(), py::arg("bias") = py::none(), py::arg("gamma") = py::none(),
             py::arg("beta") = py::none(), array_or_none("mean"), array_or_none("variance"), py::arg("momentum") = 0.0);
    py::class_<SgdOptions>(module, "Sgd", "Options of stochastic gradient descent.")
        .def(py::init([](int64_t batch, double lr, double momentum, double weight_decay) {
                 return SgdOptions{batch, lr, momentum, weight_decay};
             }),
             py::kw_only(), py::arg("batch"), py::arg("lr"), py::arg("momentum"), py::arg("weight_decay"));
    py::class_<Distillation>(module, "Distillation",
                             "Shares [N, K] that training is to keep, and how many of the K classes each group has.")
        .def(py::init([](py::array shares, std::vector<int64_t> groups, double temperature) {
                 return Distillation{std::move(shares), std::move(groups), temperature};
             }),
             py::kw_only(), array("shares"), py::arg("groups"), py::arg("temperature"));
    module.def("batch_parts", &batch_parts, py::arg("batch"), "How many parts a batch of so many images is cut into.");
    py::class_<Network>(module, "ConvNet", "The structure of a ConvNet, and where its parameters lie in theta.")
        .def(py::init(&network), py::kw_only(), py::arg("image"), py::arg("classes"), py::arg("blocks"),
             py::arg("classifier"), py::arg("parameters"), py::arg("bfloat16") = false)
        .def("class_gradients", &class_gradients_of, array("theta"), array("images"), array("labels"),
             array("gradients"), py::kw_only(), array_or_none("record"), py::arg("threads"),
             "Writes the gradients [C, P] of images [C, n, ...], class c being labels[c]; and the record, where one is "
             "given.")
        .def("image_gradients", &image_gradients_of, array("theta"), array("images"), array("cotangent"),
             array("labels"), array("gradients"), py::kw_only(), array_or_none("record"), py::arg("threads"),
             "Writes d/d images of <cotangent [C, P], class gradients>, class c being labels[c], from the record of "
             "class_gradients where one is given.")
        .def("hessian_products", &hessian_products_of, array("theta"), array("images"), array("direction"),
             array("labels"), array("by_weights"), array("by_images"), py::kw_only(), py::arg("threads"),
             "Writes the gradients by theta [P] and by images [C, n, ...] of <direction [P], d/d theta of their mean "
             "loss>, class c being labels[c].")
        .def("record_size", &record_size_of, py::arg("classes"), py::arg("each"), py::kw_only(), py::arg("of_double"),
             "Elements of the record of images [classes, each, ...] in float32 or float64.")
        .def("train", &train_on, array("theta"), array("velocity"), array("images"), array("labels"), array("order"),
             py::kw_only(), py::arg("sgd"), py::arg("distillation") = py::none(), py::arg("threads"),
             "Trains theta [P] in place, with the velocity [P] of its momentum, on batches of images [N, ...] in the "
             "order [epochs, N], and the statistics of batch norms. Labels are classes [N], or shares of the K classes "
             "[N, K].")
        .def("part_gradients", &part_gradients_of, array("theta"), array("images"), array("labels"), array("gradients"),
             py::kw_only(), py::arg("first"), py::arg("threads"),
             "Writes the gradients [n, P] of n parts of a batch of images [N, ...], from part `first` on; they add up "
             "to "
             "that of the batch.")
        .def("move", &move_by, array("theta"), array("velocity"), array("gradients"), py::kw_only(), py::arg("sgd"),
             py::arg("threads"),
             "Moves theta [P], and the velocity [P] of its momentum, by gradients [n, P], added up one by one.")
        .def("logits", &logits_of, array("theta"), array("images"), array("logits"), py::kw_only(), py::arg("threads"),
             "Writes the logits [N, K] of images [N, ...].")
        .def("features", &features_of, array("theta"), array("images"), array("features"), py::kw_only(),
             py::arg("threads"), "Writes what the linear layer reads [N, F] of images [N, ...], in torch's order.")
        .def("logit_gradients", &logit_gradients_of, array("theta"), array("images"), array("cotangent"),
             array("gradients"), py::kw_only(), py::arg("threads"),
             "Writes d/d images [N, ...] of <cotangent [N, K], logits>.")
        .def("feature_gradients", &feature_gradients_of, array("theta"), array("images"), array("cotangent"),
             array("gradients"), py::kw_only(), py::arg("threads"),
             "Writes d/d images [N, ...] of <cotangent [N, F], features>.");
}

}  // namespace fastdc
