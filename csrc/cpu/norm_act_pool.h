// Norm, activation and pooling of one ConvNet block on one image, with their derivatives: backward, tangent, and the
// tangent of backward.
//
// Maps are channels last: z, zdot, gz, gzdot are [H, W, C]; p, pdot, gp, gpdot are [H', W', C] with H' = H/2, W' = W/2
// rounded down under pooling (2x2, stride 2; an odd last row or column is dropped) and H' = H, W' = W without. C is a
// multiple of 8. For a conv output z (its bias is already in it):
//     n = (z - mean) r,  r = 1 / sqrt(var + epsilon)    mean and biased variance by the norm, below
//     y = gamma n + beta,  a = act(y),  p = pool(a)
// Norm        mean and var over                                        gamma, beta
//     instance   H, W of each channel                                     [C]
//     group      H, W and C / groups consecutive channels                 [C]
//     layer      H, W, C                                                  [H, W, C]
//     batch      given (frozen_mean, frozen_var [C])                      [C]
//     none       nothing: y = z                                           unused
//
// stats [stats_size]: what forward leaves for the others, by channel: mean, r, s = gamma r and beta (layer: s = r, beta
// = 0). With these, d = z - mean and y = s d + beta. Every derivative below has been brought into this form, a few
// fused multiply-adds on d with coefficients by channel, so that a pass over the map is bound by its loads:
//     ndot = r (zdot - t1 - n t2),  t1 = mean(zdot),  t2 = mean(n zdot) (the tangent of 1 / r), rdot = -r r t2
//     ydot = gammadot n + gamma ndot + betadot = s zdot + k1 d + k0
//         k1 = gammadot r - s r t2,  k0 = betadot - s t1
//     gz = r (gn - m1 - n m2) = s gy + q d + u,  gn = gamma gy,  m1 = mean(gn),  m2 = mean(gn n)
//         q = -r r m2,  u = -r m1
//     gzdot = s gydot + k1 gy + q zdot + v1 d + v0
//         v1 = 2 r r r m2 t2 - r r m2dot,  v0 = -r m1dot + r r (m2 t1 + m1 t2)
// Layer norm uses the same with gn for gy, gndot = gammadot gy + gamma gydot for gydot, ndot for ydot, and gamma = 1,
// gammadot = 0 in the coefficients, as its own gamma changes with the position. tangent_stats [tangent_stats_size]: t1,
// t2, k1, k0.
//
// Sums run in the order of positions, per channel, and are the same whatever the number of channels beside it.
//
// Included by files that are compiled once per instruction set, hence without external linkage (see instruction_set.h).
#pragma once

#include <cstdint>

#include "block_passes.h"
#include "block_shape.h"
#include "block_statistics.h"
#include "pooling_window.h"
#include "vector.h"

namespace fastdc {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Choice of the templates, once per call
// ---------------------------------------------------------------------------------------------------------------------

template <class Type, Type value_>
struct Constant {
    static constexpr Type value = value_;
};

template <class Body>
FASTDC_INLINE void choose_activation(Activation activation, const Body& body) {
    switch (activation) {
        case Activation::kRelu:
            return body(Constant<Activation, Activation::kRelu>{});
        case Activation::kLeakyRelu:
            return body(Constant<Activation, Activation::kLeakyRelu>{});
        case Activation::kSigmoid:
            return body(Constant<Activation, Activation::kSigmoid>{});
        case Activation::kTanh:
            return body(Constant<Activation, Activation::kTanh>{});
        case Activation::kSwish:
            return body(Constant<Activation, Activation::kSwish>{});
    }
}

template <class Body>
FASTDC_INLINE void choose_pooling(Pooling pooling, const Body& body) {
    switch (pooling) {
        case Pooling::kAverage:
            return body(Constant<Pooling, Pooling::kAverage>{});
        case Pooling::kMax:
            return body(Constant<Pooling, Pooling::kMax>{});
        case Pooling::kNone:
            return body(Constant<Pooling, Pooling::kNone>{});
    }
}

template <class Body>
FASTDC_INLINE void choose_affine(Norm norm, const Body& body) {
    switch (norm) {
        case Norm::kInstance:
        case Norm::kGroup:
            return body(Constant<Affine, Affine::kMoving>{});
        case Norm::kBatch:
        case Norm::kNone:
            return body(Constant<Affine, Affine::kFixed>{});
        case Norm::kLayer:
            return body(Constant<Affine, Affine::kElement>{});
    }
}

template <class T, class Body>
FASTDC_INLINE void choose_block(const BlockShape& shape, const Body& body) {
    choose_vector<T>(shape.channels, [&](auto vector) {
        choose_affine(shape.norm, [&](auto affine) {
            choose_activation(shape.activation, [&](auto activation) {
                choose_pooling(shape.pooling, [&](auto pooling) { body(vector, affine, activation, pooling); });
            });
        });
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// The functions
// ---------------------------------------------------------------------------------------------------------------------

// A quantity and its tangent.
template <class T>
struct Dual {
    T* value;
    T* tangent;
};

// p [H', W', C] and stats [stats_size]. frozen_mean and frozen_var [C] are of Norm::kBatch, else unused.
template <class T>
void forward(const BlockShape& shape, const NormInput<T>& in, const T* frozen_mean, const T* frozen_var, T* p,
             T* stats) {
    choose_block<T>(shape, [&](auto vector, auto affine, auto activation, auto pooling) {
        using Vector = typename decltype(vector)::type;
        using Map = Primal<T, Vector, decltype(activation)::value, reading(decltype(affine)::value)>;
        constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
        fill_stats<T, Vector>(shape, in.z, in.gamma, in.beta, frozen_mean, frozen_var, stats);
        walk<decltype(pooling)::value, Positions::kPooled, lanes>(shape, ForwardPass<T, Map>{Map(shape, in, stats), p});
    });
}

// Adds to sums [2, C] those by channel of gy and gy d, out of gp [H', W', C]. Layer norm has sums of gn and gn d, and
// adds to ggamma and gbeta [affine_size], or both are null.
template <class T>
void add_backward_sums(const BlockShape& shape, const NormInput<T>& in, const T* stats, const T* gp, T* sums, T* ggamma,
                       T* gbeta) {
    choose_block<T>(shape, [&](auto vector, auto affine, auto activation, auto pooling) {
        using Vector = typename decltype(vector)::type;
        using Map = Primal<T, Vector, decltype(activation)::value, reading(decltype(affine)::value)>;
        constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
        walk<decltype(pooling)::value, Positions::kPooled, lanes>(
            shape, BackwardSumsPass<T, Map>{Map(shape, in, stats), gp, sums, ggamma, gbeta});
    });
}

// gz [H, W, C] from gp [H', W', C] and the coefficients u, q [2, C] of a norm whose statistics move. gz may be z.
template <class T>
void backward_by(const BlockShape& shape, const NormInput<T>& in, const T* stats, const T* gp, const T* coefficients,
                 T* gz) {
    choose_block<T>(shape, [&](auto vector, auto affine, auto activation, auto pooling) {
        using Vector = typename decltype(vector)::type;
        using Map = Primal<T, Vector, decltype(activation)::value, decltype(affine)::value>;
        constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
        walk<decltype(pooling)::value, Positions::kAll, lanes>(
            shape, BackwardPass<T, Map>{Map(shape, in, stats), gp, coefficients, gz});
    });
}

// gz [H, W, C] from gp [H', W', C]; adds to ggamma and gbeta [affine_size], or both are null. gz may be z.
// scratch [backward_scratch_size].
template <class T>
void backward(const BlockShape& shape, const NormInput<T>& in, const T* stats, const T* gp, T* gz, T* ggamma, T* gbeta,
              T* scratch) {
    const bool fixed = shape.norm == Norm::kBatch || shape.norm == Norm::kNone;
    if (!fixed || (shape.norm == Norm::kBatch && ggamma)) {
        clear(scratch, 2 * shape.channels);
        add_backward_sums(shape, in, stats, gp, scratch, ggamma, gbeta);
        backward_coefficients(shape, in.gamma, stats, ggamma, gbeta, scratch);
    }
    backward_by<T>(shape, in, stats, gp, scratch, gz);
}

// pdot [H', W', C] and tangent_stats [tangent_stats_size], along `dot`.
template <class T>
void forward_tangent(const BlockShape& shape, const NormInput<T>& in, const NormInput<T>& dot, const T* stats, T* pdot,
                     T* tangent_stats) {
    choose_block<T>(shape, [&](auto vector, auto affine, auto activation, auto pooling) {
        using Vector = typename decltype(vector)::type;
        using Map = Primal<T, Vector, decltype(activation)::value, reading(decltype(affine)::value)>;
        constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
        tangent_coefficients<T, Vector>(shape, in.z, dot.z, dot.gamma, dot.beta, stats, tangent_stats);
        const Tangent<T, Map> tangent{dot, tangent_stats};
        walk<decltype(pooling)::value, Positions::kPooled, lanes>(
            shape, ForwardTangentPass<T, Map>{Map(shape, in, stats), tangent, pdot});
    });
}

// gz as backward and gzdot [H, W, C], its derivative along all of forward_tangent's and gpdot [H', W', C]. gz may be z
// and gzdot may be zdot. Adds those of ggamma and gbeta [affine_size] to ggammadot and gbetadot, or both are null.
// scratch [backward_tangent_scratch_size].
template <class T>
void backward_tangent(const BlockShape& shape, const NormInput<T>& in, const NormInput<T>& dot, Dual<const T> stats,
                      Dual<const T> gp, Dual<T> gz, T* ggammadot, T* gbetadot, T* scratch) {
    choose_block<T>(shape, [&](auto vector, auto affine, auto activation, auto pooling) {
        using Vector = typename decltype(vector)::type;
        using Map = Primal<T, Vector, decltype(activation)::value, decltype(affine)::value>;
        constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
        const Tangent<T, Map> tangent{dot, stats.tangent};
        const BackwardTangentWindow<T, Map> at{
            Map(shape, in, stats.value), tangent, gp.value, gp.tangent, nullptr, nullptr};
        if (Map::affine != Affine::kFixed || (shape.norm == Norm::kBatch && ggammadot)) {
            using Read = Primal<T, Vector, Map::activation, reading(Map::affine)>;
            const BackwardTangentWindow<T, Read> read{Read(shape, in, stats.value),
                                                      Tangent<T, Read>{dot, stats.tangent},
                                                      gp.value,
                                                      gp.tangent,
                                                      ggammadot,
                                                      gbetadot};
            clear(scratch, 4 * shape.channels);
            walk<decltype(pooling)::value, Positions::kPooled, lanes>(shape,
                                                                      BackwardTangentSumsPass<T, Read>{read, scratch});
            backward_tangent_coefficients(shape, in.gamma, dot.gamma, stats.value, stats.tangent, ggammadot, gbetadot,
                                          scratch);
        }
        walk<decltype(pooling)::value, Positions::kAll, lanes>(
            shape, BackwardTangentPass<T, Map>{at, scratch, gz.value, gz.tangent});
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Layer norm's parameters, and features, between torch's order and the map's
// ---------------------------------------------------------------------------------------------------------------------

// [C, positions] to [positions, C]: of a norm once per step, and it serves all images.
template <class T>
void to_channels_last(const T* from, int64_t channels, int64_t positions, T* to) {
    for (int64_t first = 0; first < channels; first += 8) {  // 8 rows are read in order, and lines of `to` filled
        for (int64_t at = 0; at < positions; ++at) {
            for (int64_t c = first; c < first + 8; ++c) to[at * channels + c] = from[c * positions + at];
        }
    }
}

// The way back.
template <class T>
void from_channels_last(const T* from, int64_t channels, int64_t positions, T* to) {
    for (int64_t first = 0; first < channels; first += 8) {
        for (int64_t at = 0; at < positions; ++at) {
            for (int64_t c = first; c < first + 8; ++c) to[c * positions + at] = from[at * channels + c];
        }
    }
}

// Adds [positions, C] to [C, positions].
template <class T>
void add_from_channels_last(const T* from, int64_t channels, int64_t positions, T* to) {
    for (int64_t first = 0; first < channels; first += 8) {
        for (int64_t at = 0; at < positions; ++at) {
            for (int64_t c = first; c < first + 8; ++c) to[c * positions + at] += from[at * channels + c];
        }
    }
}

}  // namespace
}  // namespace fastdc
