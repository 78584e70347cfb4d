// What a ConvNet block may be made of, by the names that Python has for it; norm_act_pool.h says what each part
// computes.
#pragma once

#include "../names.h"

namespace fastdc {

enum class Norm { kInstance, kGroup, kLayer, kBatch, kNone };
constexpr Named<Norm> kNorms[] = {
    {"instance", Norm::kInstance}, {"group", Norm::kGroup}, {"layer", Norm::kLayer},
    {"batch", Norm::kBatch},       {"none", Norm::kNone},
};

enum class Activation { kRelu, kLeakyRelu, kSigmoid, kSwish };
constexpr Named<Activation> kActivations[] = {
    {"relu", Activation::kRelu},
    {"leaky_relu", Activation::kLeakyRelu},
    {"sigmoid", Activation::kSigmoid},
    {"swish", Activation::kSwish},
};

enum class Pooling { kAverage, kMax, kNone };
constexpr Named<Pooling> kPoolings[] = {
    {"avg", Pooling::kAverage},
    {"max", Pooling::kMax},
    {"none", Pooling::kNone},
};

}  // namespace fastdc
