#include "bindings_convnet.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "arguments.h"
#include "cpu/block_parts.h"
#include "cpu/convnet.h"

namespace py = pybind11;

namespace fastdc {
namespace {

// A plan, with the statistics of frozen batch norms kept alive beside it.
struct Network {
    ConvNetPlan plan{};
    std::vector<py::array> statistics;
};

struct Span {
    const char* name;
    int64_t begin, size;
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

// Every parameter lies within theta, and no sizes that overflow.
void check(const ConvNetPlan& plan) {
    const auto norm = static_cast<Norm>(plan.norm);
    const auto pooling = static_cast<Pooling>(plan.pooling);
    constexpr int64_t kLargest = 1 << 16;
    check_range("channels", plan.channels, 1, kLargest);
    check_range("height", plan.height, 1, kLargest);
    check_range("width", plan.width, 1, kLargest);
    check_range("padding", plan.padding, 1, 16);
    check_range("features", plan.features, 8, kLargest);
    if (plan.features % 8) refuse("features", std::to_string(plan.features), "a multiple of 8");
    check_range("depth", plan.depth, 1, kMostBlocks);
    check_range("classes", plan.classes, 1, kLargest);
    check_range("groups", plan.groups, 1, plan.features);
    if (plan.features % plan.groups) refuse("groups", std::to_string(plan.groups), "a divisor of features");
    int64_t height = plan.height + 2 * (plan.padding - 1), width = plan.width + 2 * (plan.padding - 1);
    const auto within = [&](const std::string& name, int64_t begin, int64_t size, bool needed) {
        if (begin < 0 && !needed) return;
        if (begin < 0 || size > plan.parameters || begin > plan.parameters - size) {
            refuse(name, "at " + std::to_string(begin), "a place of " + std::to_string(size) + " elements in theta");
        }
    };
    for (int64_t l = 0; l < plan.depth; ++l) {
        const int64_t affine = norm == Norm::kLayer ? product({plan.features, height, width}) : plan.features;
        within("weight", plan.weight[l], product({plan.features, l ? plan.features : plan.channels, 9}), true);
        within("bias", plan.bias[l], plan.features, false);
        within("gamma", plan.gamma[l], affine, norm != Norm::kNone);
        within("beta", plan.beta[l], affine, norm != Norm::kNone);
        if (norm == Norm::kBatch && (!plan.mean[l] || !plan.variance[l]))
            refuse("statistics", "missing", "those of every batch norm");
        if (pooling != Pooling::kNone) {
            height /= 2;
            width /= 2;
        }
        if (!height || !width)
            refuse("depth", std::to_string(plan.depth), "less pooling than leaves nothing of the image");
    }
    within("linear_weight", plan.linear_weight, product({plan.classes, plan.features, height, width}), true);
    within("linear_bias", plan.linear_bias, plan.classes, false);
}

void fill(int64_t* to, const std::vector<int64_t>& from, const char* name, int64_t depth) {
    if (static_cast<int64_t>(from.size()) != depth)
        refuse(name, std::to_string(from.size()) + " numbers", "one for each of the blocks");
    for (int64_t l = 0; l < depth; ++l) to[l] = from[static_cast<size_t>(l)];
}

Network network(int64_t channels, int64_t height, int64_t width, int64_t padding, int64_t features, int64_t depth,
                int64_t classes, int64_t groups, const std::string& norm, const std::string& activation,
                const std::string& pooling, int64_t parameters, const std::vector<int64_t>& weight,
                const std::vector<int64_t>& bias, const std::vector<int64_t>& gamma, const std::vector<int64_t>& beta,
                int64_t linear_weight, int64_t linear_bias, const std::vector<py::array>& statistics) {
    Network result;
    ConvNetPlan& plan = result.plan;
    check_range("depth", depth, 1, kMostBlocks);
    plan.channels = channels;
    plan.height = height;
    plan.width = width;
    plan.padding = padding;
    plan.features = features;
    plan.depth = depth;
    plan.classes = classes;
    plan.groups = groups;
    plan.norm = static_cast<int>(value_of(kNorms, "norm", norm));
    plan.activation = static_cast<int>(value_of(kActivations, "activation", activation));
    plan.pooling = static_cast<int>(value_of(kPoolings, "pooling", pooling));
    plan.parameters = parameters;
    fill(plan.weight, weight, "weight", depth);
    fill(plan.bias, bias, "bias", depth);
    fill(plan.gamma, gamma, "gamma", depth);
    fill(plan.beta, beta, "beta", depth);
    plan.linear_weight = linear_weight;
    plan.linear_bias = linear_bias;
    if (plan.norm == static_cast<int>(Norm::kBatch)) {
        if (static_cast<int64_t>(statistics.size()) != 2 * depth)
            refuse("statistics", std::to_string(statistics.size()) + " arrays", "mean and variance of each block");
        result.statistics = statistics;
        for (int64_t l = 0; l < 2 * depth; ++l) {
            const py::array& array = result.statistics[static_cast<size_t>(l)];
            if (array.ndim() != 1 || array.shape(0) != features || !(array.flags() & py::array::c_style)) {
                refuse("statistics", describe(array), "[" + std::to_string(features) + "], contiguous");
            }
            const void** to = l % 2 ? plan.variance : plan.mean;
            to[l / 2] = array.data();
        }
    }
    check(plan);
    return result;
}

template <class T>
void check_array(const char* name, const py::array& array, const std::vector<int64_t>& shape, bool written = false) {
    bool fits = array.ndim() == static_cast<py::ssize_t>(shape.size()) && array.dtype().equal(py::dtype::of<T>()) &&
                (array.flags() & py::array::c_style) && (!written || array.writeable()) &&
                reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) == 0;
    std::string wanted;
    for (size_t i = 0; i < shape.size(); ++i) {
        fits = fits && array.shape(static_cast<py::ssize_t>(i)) == shape[i];
        wanted += (i ? ", " : "") + std::to_string(shape[i]);
    }
    if (!fits) {
        refuse(name, describe(array),
               std::string(py::str(py::dtype::of<T>())) + " [" + wanted + "], contiguous, aligned" +
                   (written ? " and writeable" : ""));
    }
}

template <class T>
void check_common(const Network& network, const py::array& theta, int threads) {
    check_array<T>("theta", theta, {network.plan.parameters});
    for (const py::array& array : network.statistics) check_array<T>("statistics", array, {network.plan.features});
    check_range("threads", threads, 1, 1 << 12);
}

void check_labels(const py::array& labels, int64_t count, int64_t classes) {
    check_array<int64_t>("labels", labels, {count});
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
T* record_of(const Network& network, py::object& record, int64_t classes, int64_t each) {
    if (record.is_none()) return nullptr;
    if (!py::isinstance<py::array>(record))
        refuse("record", std::string(py::str(py::type::of(record))), "an array or None");
    auto array = py::reinterpret_borrow<py::array>(record);
    check_array<T>("record", array, {record_size<T>(network.plan, classes, each)}, true);
    return out<T>(array);
}

int64_t record_size_of(const Network& network, int64_t classes, int64_t each, bool of_double) {
    check_range("classes", classes, 0, int64_t{1} << 20);
    check_range("each", each, 1, int64_t{1} << 32);
    return of_double ? record_size<double>(network.plan, classes, each)
                     : record_size<float>(network.plan, classes, each);
}

int64_t first_of(const char* name, const py::array& images, py::ssize_t dimensions) {
    if (images.ndim() != dimensions) refuse(name, describe(images), std::to_string(dimensions) + " dimensions");
    return images.shape(0);
}

void class_gradients_of(const Network& network, const py::array& theta, const py::array& images,
                        const py::array& labels, py::array& gradients, py::object record, int threads) {
    with_type(theta, [&](auto zero) {
        using T = decltype(zero);
        const ConvNetPlan& plan = network.plan;
        const int64_t classes = first_of("images", images, 5), each = images.shape(1);
        check_common<T>(network, theta, threads);
        check_array<T>("images", images, {classes, each, plan.channels, plan.height, plan.width});
        if (each < 1) refuse("images", describe(images), "at least one of every class");
        check_labels(labels, classes, plan.classes);
        check_array<T>("gradients", gradients, {classes, plan.parameters}, true);
        const T *weights = in<T>(theta), *from = in<T>(images);
        const auto* label = in<int64_t>(labels);
        T *to = out<T>(gradients), *kept = record_of<T>(network, record, classes, each);
        const py::gil_scoped_release release;
        class_gradients<T>(plan, weights, from, label, classes, each, kept, to, threads);
    });
}

void image_gradients_of(const Network& network, const py::array& theta, const py::array& images,
                        const py::array& cotangent, const py::array& labels, py::array& gradients, py::object record,
                        int threads) {
    with_type(theta, [&](auto zero) {
        using T = decltype(zero);
        const ConvNetPlan& plan = network.plan;
        const int64_t classes = first_of("images", images, 5), each = images.shape(1);
        const std::vector<int64_t> shape{classes, each, plan.channels, plan.height, plan.width};
        check_common<T>(network, theta, threads);
        check_array<T>("images", images, shape);
        if (each < 1) refuse("images", describe(images), "at least one of every class");
        check_labels(labels, classes, plan.classes);
        check_array<T>("cotangent", cotangent, {classes, plan.parameters});
        check_array<T>("gradients", gradients, shape, true);
        const T *weights = in<T>(theta), *from = in<T>(images), *along = in<T>(cotangent);
        const auto* label = in<int64_t>(labels);
        T *to = out<T>(gradients), *kept = record_of<T>(network, record, classes, each);
        const py::gil_scoped_release release;
        image_gradients<T>(plan, weights, from, along, label, classes, each, kept, to, threads);
    });
}

// The shares [count, kept] of images, where there are any, and how many classes each group has.
template <class T>
Distilled<T> distilled_of(const ConvNetPlan& plan, int64_t count, const std::optional<py::array>& shares,
                          const std::vector<int64_t>& groups, double temperature) {
    if (!shares) return {};
    int64_t kept = 0;
    for (const int64_t classes : groups) {
        if (classes < 1 || classes > plan.classes - kept) {
            refuse("groups", std::string(py::str(py::cast(groups))),
                   "1 or more classes each, and at most " + std::to_string(plan.classes) + " in all");
        }
        kept += classes;
    }
    check_array<T>("shares", *shares, {count, kept});
    if (!(temperature > 0)) refuse("temperature", std::to_string(temperature), "more than 0");
    return {in<T>(*shares), kept, static_cast<int64_t>(groups.size()), groups.data(), static_cast<T>(temperature)};
}

void train_on(const Network& network, py::array& theta, const py::array& images, const py::array& labels,
              const py::array& order, const std::optional<py::array>& shares, const std::vector<int64_t>& groups,
              double temperature, int64_t batch, double lr, double momentum, double weight_decay, int threads) {
    with_type(theta, [&](auto zero) {
        using T = decltype(zero);
        const ConvNetPlan& plan = network.plan;
        const int64_t count = first_of("images", images, 4), epochs = first_of("order", order, 2);
        check_common<T>(network, theta, threads);
        check_array<T>("theta", theta, {plan.parameters}, true);
        check_array<T>("images", images, {count, plan.channels, plan.height, plan.width});
        check_labels(labels, count, plan.classes);
        check_array<int64_t>("order", order, {epochs, count});
        for (int64_t i = 0; i < epochs * count; ++i) check_range("order", in<int64_t>(order)[i], 0, count - 1);
        if (batch < 1) refuse("batch", std::to_string(batch), "1 or more");
        if (plan.norm == static_cast<int>(Norm::kBatch))
            refuse("norm", "batch", "one whose statistics do not change in training");
        const Distilled<T> distilled = distilled_of<T>(plan, count, shares, groups, temperature);
        const T* from = in<T>(images);
        const auto *label = in<int64_t>(labels), *index = in<int64_t>(order);
        T* weights = out<T>(theta);
        const py::gil_scoped_release release;
        const SgdOptions sgd{epochs, batch, lr, momentum, weight_decay};
        train<T>(plan, weights, from, label, count, index, distilled, sgd, threads);
    });
}

void logits_of(const Network& network, const py::array& theta, const py::array& images, py::array& result,
               int threads) {
    with_type(theta, [&](auto zero) {
        using T = decltype(zero);
        const ConvNetPlan& plan = network.plan;
        const int64_t count = first_of("images", images, 4);
        check_common<T>(network, theta, threads);
        check_array<T>("images", images, {count, plan.channels, plan.height, plan.width});
        check_array<T>("logits", result, {count, plan.classes}, true);
        const T *weights = in<T>(theta), *from = in<T>(images);
        T* to = out<T>(result);
        const py::gil_scoped_release release;
        logits<T>(plan, weights, from, count, to, threads);
    });
}

}  // namespace

void bind_convnet(py::module_& module) {
    module.attr("NORMS") = names_in(kNorms);
    module.attr("ACTIVATIONS") = names_in(kActivations);
    module.attr("POOLINGS") = names_in(kPoolings);
    module.attr("MOST_BLOCKS") = kMostBlocks;
    const auto array = [](const char* name) { return py::arg(name).noconvert(); };
    py::class_<Network>(module, "ConvNet", "The structure of a ConvNet, and where its parameters lie in theta.")
        .def(py::init(&network), py::kw_only(), py::arg("channels"), py::arg("height"), py::arg("width"),
             py::arg("padding"), py::arg("features"), py::arg("depth"), py::arg("classes"), py::arg("groups"),
             py::arg("norm"), py::arg("activation"), py::arg("pooling"), py::arg("parameters"), py::arg("weight"),
             py::arg("bias"), py::arg("gamma"), py::arg("beta"), py::arg("linear_weight"), py::arg("linear_bias"),
             py::arg("statistics"))
        .def("class_gradients", &class_gradients_of, array("theta"), array("images"), array("labels"),
             array("gradients"), py::kw_only(), py::arg("record") = py::none(), py::arg("threads"),
             "Writes the gradients [C, P] of images [C, n, ...], class c being labels[c]; and the record, where one is "
             "given.")
        .def("image_gradients", &image_gradients_of, array("theta"), array("images"), array("cotangent"),
             array("labels"), array("gradients"), py::kw_only(), py::arg("record") = py::none(), py::arg("threads"),
             "Writes d/d images of <cotangent [C, P], class gradients>, class c being labels[c], from the record of "
             "class_gradients where one is given.")
        .def("record_size", &record_size_of, py::arg("classes"), py::arg("each"), py::arg("of_double"),
             "Elements of the record of images [classes, each, ...] in float32 or float64.")
        .def("train", &train_on, array("theta"), array("images"), array("labels"), array("order"), py::kw_only(),
             py::arg("shares").noconvert() = py::none(), py::arg("groups") = std::vector<int64_t>{},
             py::arg("temperature") = 1.0, py::arg("batch"), py::arg("lr"), py::arg("momentum"),
             py::arg("weight_decay"), py::arg("threads"),
             "Trains theta [P] in place on batches of images [N, ...] in the order [epochs, N], keeping the shares "
             "[N, classes of all groups] where they are given.")
        .def("logits", &logits_of, array("theta"), array("images"), array("logits"), py::kw_only(), py::arg("threads"),
             "Writes the logits [N, K] of images [N, ...].");
}

}  // namespace fastdc
