// What a ConvNet block may be made of, by the names that Python has for it; norm_act_pool.h says what each part
// computes.
#pragma once

#include <cstdint>

#include "../names.h"

namespace fastdc {

enum class Norm { kInstance, kGroup, kLayer, kBatch, kNone };
constexpr Named<Norm> kNorms[] = {
    {"instance", Norm::kInstance}, {"group", Norm::kGroup}, {"layer", Norm::kLayer},
    {"batch", Norm::kBatch},       {"none", Norm::kNone},
};

enum class Activation { kRelu, kLeakyRelu, kSigmoid, kTanh, kSwish };
constexpr Named<Activation> kActivations[] = {
    {"relu", Activation::kRelu}, {"leaky_relu", Activation::kLeakyRelu}, {"sigmoid", Activation::kSigmoid},
    {"tanh", Activation::kTanh}, {"swish", Activation::kSwish},
};

enum class Pooling { kAverage, kMax, kNone };
constexpr Named<Pooling> kPoolings[] = {
    {"avg", Pooling::kAverage},
    {"max", Pooling::kMax},
    {"none", Pooling::kNone},
};

// Pooling by windows other than those; window_pool.h says what it computes.
enum class WindowKind { kAverage, kMax, kAdaptive };
constexpr Named<WindowKind> kWindowKinds[] = {
    {"avg", WindowKind::kAverage},
    {"max", WindowKind::kMax},
    {"adaptive", WindowKind::kAdaptive},
};

// Along a side of a map: windows of `kernel` positions, `stride` apart, the first from `padding` before the first
// position on. Adaptive ones are `kernel` windows that cover the side.
struct WindowSide {
    int64_t kernel, stride, padding;
};
struct Windows {
    WindowKind kind;
    WindowSide rows, columns;  // kernel 0: there are none
};
inline int64_t window_count(const Windows& windows, const WindowSide& along, int64_t side) {
    if (windows.kind == WindowKind::kAdaptive) return along.kernel;
    const int64_t room = side + 2 * along.padding - along.kernel;
    return room < 0 ? 0 : room / along.stride + 1;
}

}  // namespace fastdc
