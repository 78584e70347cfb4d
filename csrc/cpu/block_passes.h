// The passes of norm_act_pool.h: what is done at each window and register of channels, forward, backward and for
// tangents.
//
// Included by files that are compiled once per instruction set, hence without external linkage (see instruction_set.h).
#pragma once

#include <cstdint>

#include "activation.h"
#include "block_shape.h"
#include "pooling_window.h"
#include "vector.h"

namespace fastdc {
namespace {

// What the passes distinguish among norms; those that write no gz take kMoving for kFixed.
enum class Affine {
    kMoving,   // by channel, statistics of the map: instance, group
    kFixed,    // by channel, statistics given: batch, none
    kElement,  // by element, statistics of the map: layer
};

constexpr Affine reading(Affine affine) {
    return affine == Affine::kFixed ? Affine::kMoving : affine;
}

// What a norm reads: the map z [H, W, C], gamma and beta [affine_size]. Or the tangents of these.
template <class T>
struct NormInput {
    const T* z;
    const T* gamma;
    const T* beta;
};

// The map and its norm, which all passes read.
template <class T, class VectorType, Activation activation_, Affine affine_>
struct Primal {
    using Vector = VectorType;
    static constexpr Activation activation = activation_;
    static constexpr Affine affine = affine_;

    const T* z;
    const T* stats;
    const T* gamma;  // of kElement only, as is beta
    const T* beta;
    int64_t channels;
    T slope;  // of a leaky activation

    FASTDC_INLINE Primal(const BlockShape& shape, const NormInput<T>& in, const T* stats_)
        : z(in.z),
          stats(stats_),
          gamma(in.gamma),
          beta(in.beta),
          channels(shape.channels),
          slope(static_cast<T>(shape.slope)) {}

    FASTDC_INLINE Vector s(int64_t c) const { return load<Vector>(stats + 2 * channels + c); }

    template <int count>
    FASTDC_INLINE void read(const int64_t* position, int64_t c, Vector* d, Vector* y) const {
        const Vector mean = load<Vector>(stats + c), scale = s(c);
        const Vector shift = load<Vector>(stats + 3 * channels + c);
        for (int k = 0; k < count; ++k) {
            d[k] = load<Vector>(z + position[k] * channels + c) - mean;
            if constexpr (affine == Affine::kElement) {
                const int64_t at = position[k] * channels + c;
                y[k] = d[k] * scale * load<Vector>(gamma + at) + load<Vector>(beta + at);
            } else {
                y[k] = d[k] * scale + shift;
            }
        }
    }
};

template <class T, class Map>
struct ForwardPass {
    using Vector = typename Map::Vector;
    Map map;
    T* p;

    template <Take take, int count>
    FASTDC_INLINE void window(const int64_t* position, int64_t out, int64_t c) const {
        using Act = Activated<T, Vector, Map::activation>;
        Vector d[count], y[count];
        map.template read<count>(position, c, d, y);
        T* to = p + out * map.channels + c;
        if constexpr (take == Take::kMax) {
            const auto winner = find_winner<T, Map::activation, count>(y, map.slope);
            if constexpr (Map::activation == Activation::kSwish) {
                store(to, winner.value);
            } else {
                store(to, Act(winner.value, map.slope).value());
            }
        } else if constexpr (take == Take::kAverage) {
            Vector sum = Act(y[0], map.slope).value();
            for (int k = 1; k < count; ++k) sum += Act(y[k], map.slope).value();
            store(to, sum * T(0.25));
        } else {
            for (int k = 0; k < count; ++k) store(to + k * map.channels, Act(y[k], map.slope).value());
        }
    }
};

// zdot, and the tangents that follow from it. In kElement, ndot first and ydot from it.
template <class T, class Map>
struct Tangent {
    using Vector = typename Map::Vector;
    NormInput<T> dot;  // gamma and beta of kElement only
    const T* tangent_stats;

    template <int count>
    FASTDC_INLINE void read(const Map& map, const int64_t* position, int64_t c, Vector* zd) const {
        for (int k = 0; k < count; ++k) zd[k] = load<Vector>(dot.z + position[k] * map.channels + c);
    }
    template <int count>
    FASTDC_INLINE void push(const Map& map, const int64_t* position, int64_t c, const Vector* d, const Vector* zd,
                            Vector* yd) const {
        const int64_t channels = map.channels;
        const Vector scale = map.s(c), k1 = load<Vector>(tangent_stats + 2 * channels + c);
        const Vector k0 = load<Vector>(tangent_stats + 3 * channels + c);
        for (int k = 0; k < count; ++k) {
            yd[k] = zd[k] * scale + (d[k] * k1 + k0);
            if constexpr (Map::affine == Affine::kElement) {
                const int64_t at = position[k] * channels + c;
                yd[k] *= load<Vector>(map.gamma + at);
                yd[k] += d[k] * scale * load<Vector>(dot.gamma + at);
                yd[k] += load<Vector>(dot.beta + at);
            }
        }
    }
};

template <class T, class Map>
struct ForwardTangentPass {
    using Vector = typename Map::Vector;
    Map map;
    Tangent<T, Map> tangent;
    T* pdot;

    template <Take take, int count>
    FASTDC_INLINE void window(const int64_t* position, int64_t out, int64_t c) const {
        using Act = Activated<T, Vector, Map::activation>;
        Vector d[count], y[count], zd[count], yd[count];
        map.template read<count>(position, c, d, y);
        tangent.template read<count>(map, position, c, zd);
        tangent.template push<count>(map, position, c, d, zd, yd);
        T* to = pdot + out * map.channels + c;
        if constexpr (take == Take::kMax) {
            const auto winner = find_winner<T, Map::activation, count>(y, map.slope);
            store(to, Act(winner.pick(y), map.slope).times_slope(winner.pick(yd)));
        } else if constexpr (take == Take::kAverage) {
            Vector sum = Act(y[0], map.slope).times_slope(yd[0]);
            for (int k = 1; k < count; ++k) sum += Act(y[k], map.slope).times_slope(yd[k]);
            store(to, sum * T(0.25));
        } else {
            for (int k = 0; k < count; ++k) store(to + k * map.channels, Act(y[k], map.slope).times_slope(yd[k]));
        }
    }
};

// Sums by channel of gy and gy d, and in kElement of gn and gn d, with the gradients of gamma and beta there and then.
template <class T, class Map>
struct BackwardSumsPass {
    using Vector = typename Map::Vector;
    Map map;
    const T* gp;
    T* sums;    // [2, C]
    T* ggamma;  // of kElement only; null, as is then gbeta: not wanted
    T* gbeta;

    template <Take take, int count>
    FASTDC_INLINE void window(const int64_t* position, int64_t out, int64_t c) const {
        const int64_t channels = map.channels;
        Vector d[count], y[count], gy[count];
        map.template read<count>(position, c, d, y);
        pull_back<T, Map::activation, take, count, Derivative::kGradient, Vector>(
            gp + out * channels + c, nullptr, channels, map.slope, y, nullptr, gy, nullptr);
        if constexpr (Map::affine == Affine::kElement) {
            for (int k = 0; k < count; ++k) {
                const int64_t at = position[k] * channels + c;
                if (ggamma) {
                    store(gbeta + at, load<Vector>(gbeta + at) + gy[k]);
                    store(ggamma + at, load<Vector>(ggamma + at) + gy[k] * d[k] * map.s(c));
                }
                gy[k] *= load<Vector>(map.gamma + at);
            }
        }
        accumulate<count>(sums + c, gy);
        accumulate_products<count>(sums + channels + c, gy, d);
    }
};

template <class T, class Map>
struct BackwardPass {
    using Vector = typename Map::Vector;
    Map map;
    const T* gp;
    const T* coefficients;  // [2, C]: u, q; unused in kFixed
    T* gz;

    template <Take take, int count>
    FASTDC_INLINE void window(const int64_t* position, int64_t out, int64_t c) const {
        const int64_t channels = map.channels;
        Vector d[count], y[count], gy[count];
        map.template read<count>(position, c, d, y);
        pull_back<T, Map::activation, take, count, Derivative::kGradient, Vector>(
            gp + out * channels + c, nullptr, channels, map.slope, y, nullptr, gy, nullptr);
        const Vector scale = map.s(c);
        Vector u{}, q{};
        if constexpr (Map::affine != Affine::kFixed) {
            u = load<Vector>(coefficients + c);
            q = load<Vector>(coefficients + channels + c);
        }
        for (int k = 0; k < count; ++k) {
            if constexpr (Map::affine == Affine::kElement)
                gy[k] *= load<Vector>(map.gamma + position[k] * channels + c);
            Vector g = gy[k] * scale;
            if constexpr (Map::affine != Affine::kFixed) g += d[k] * q + u;
            store(gz + position[k] * channels + c, g);
        }
    }
};

// What both passes of backward_tangent need at a window: gy and gydot, and in kElement gn and gndot in their place,
// with the tangents of the gradients of gamma and beta there and then.
template <class T, class Map>
struct BackwardTangentWindow {
    using Vector = typename Map::Vector;
    Map map;
    Tangent<T, Map> tangent;
    const T* gp;
    const T* gpdot;
    T* ggammadot;  // of kElement only; null, as is then gbetadot: not wanted
    T* gbetadot;

    template <Take take, int count>
    FASTDC_INLINE void read(const int64_t* position, int64_t out, int64_t c, Vector* d, Vector* zd, Vector* gy,
                            Vector* gyd) const {
        const int64_t channels = map.channels, at = out * channels + c;
        Vector y[count], yd[count];
        map.template read<count>(position, c, d, y);
        tangent.template read<count>(map, position, c, zd);
        if constexpr (is_curved(Map::activation)) tangent.template push<count>(map, position, c, d, zd, yd);
        pull_back<T, Map::activation, take, count, Derivative::kItsTangent, Vector>(gp + at, gpdot + at, channels,
                                                                                    map.slope, y, yd, gy, gyd);
        if constexpr (Map::affine == Affine::kElement) {
            const Vector scale = map.s(c), k1 = load<Vector>(tangent.tangent_stats + 2 * channels + c);
            const Vector k0 = load<Vector>(tangent.tangent_stats + 3 * channels + c);
            for (int k = 0; k < count; ++k) {
                const int64_t place = position[k] * channels + c;
                const Vector gamma = load<Vector>(map.gamma + place);
                if (ggammadot) {
                    const Vector nd = zd[k] * scale + (d[k] * k1 + k0);
                    store(gbetadot + place, load<Vector>(gbetadot + place) + gyd[k]);
                    store(ggammadot + place, load<Vector>(ggammadot + place) + (gyd[k] * (d[k] * scale) + gy[k] * nd));
                }
                gyd[k] *= gamma;
                gyd[k] += gy[k] * load<Vector>(tangent.dot.gamma + place);
                gy[k] *= gamma;
            }
        }
    }
};

// Sums by channel of gy, gy d, gydot, and gydot d + gy zdot (in kElement of gn and gndot).
template <class T, class Map>
struct BackwardTangentSumsPass {
    using Vector = typename Map::Vector;
    BackwardTangentWindow<T, Map> at;
    T* sums;  // [4, C]

    template <Take take, int count>
    FASTDC_INLINE void window(const int64_t* position, int64_t out, int64_t c) const {
        const int64_t channels = at.map.channels;
        Vector d[count], zd[count], gy[count], gyd[count], mixed[count];
        at.template read<take, count>(position, out, c, d, zd, gy, gyd);
        for (int k = 0; k < count; ++k) mixed[k] = gyd[k] * d[k] + gy[k] * zd[k];
        accumulate<count>(sums + c, gy);
        accumulate_products<count>(sums + channels + c, gy, d);
        accumulate<count>(sums + 2 * channels + c, gyd);
        accumulate<count>(sums + 3 * channels + c, mixed);
    }
};

template <class T, class Map>
struct BackwardTangentPass {
    using Vector = typename Map::Vector;
    BackwardTangentWindow<T, Map> at;
    const T* coefficients;  // [4, C]: u, q, v0, v1; unused in kFixed
    T* gz;
    T* gzdot;

    template <Take take, int count>
    FASTDC_INLINE void window(const int64_t* position, int64_t out, int64_t c) const {
        const int64_t channels = at.map.channels;
        Vector d[count], zd[count], gy[count], gyd[count];
        at.template read<take, count>(position, out, c, d, zd, gy, gyd);
        const Vector scale = at.map.s(c), k1 = load<Vector>(at.tangent.tangent_stats + 2 * channels + c);
        Vector u{}, q{}, v0{}, v1{};
        if constexpr (Map::affine != Affine::kFixed) {
            u = load<Vector>(coefficients + c);
            q = load<Vector>(coefficients + channels + c);
            v0 = load<Vector>(coefficients + 2 * channels + c);
            v1 = load<Vector>(coefficients + 3 * channels + c);
        }
        for (int k = 0; k < count; ++k) {
            Vector g = gy[k] * scale;
            Vector gdot = gyd[k] * scale + gy[k] * k1;
            if constexpr (Map::affine != Affine::kFixed) {
                g += d[k] * q + u;
                gdot += zd[k] * q + (d[k] * v1 + v0);
            }
            store(gz + position[k] * channels + c, g);
            store(gzdot + position[k] * channels + c, gdot);
        }
    }
};

}  // namespace
}  // namespace fastdc
