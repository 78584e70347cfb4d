// Statistics of a map by the norm, and the coefficients by channel of the passes in norm_act_pool.h.
//
// Included by files that are compiled once per instruction set, hence without external linkage (see instruction_set.h).
#pragma once

#include <cstdint>

#include "block_shape.h"
#include "vector.h"

namespace fastdc {
namespace {

template <class T>
FASTDC_INLINE void clear(T* values, int64_t size) {
    for (int64_t i = 0; i < size; ++i) values[i] = T(0);
}

// Merges `count` positions into mean and squares (sum of squared deviations from the mean) of `seen` earlier ones,
// after Chan et al. (1979): one pass over the map, as accurate as two, whatever the size of the mean.
template <int count, class T, class Vector>
FASTDC_INLINE void merge_positions(const T* z, int64_t channels, int64_t seen, T* mean, T* squares) {
    constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
    const T share = T(count) / T(seen + count), weight = T(seen) * share;
    for (int64_t c = 0; c < channels; c += lanes) {
        Vector value[count];
        for (int k = 0; k < count; ++k) value[k] = load<Vector>(z + k * channels + c);
        Vector sum = value[0];
        for (int k = 1; k < count; ++k) sum += value[k];
        const Vector center = sum * (T(1) / T(count));
        Vector spread = (value[0] - center) * (value[0] - center);
        for (int k = 1; k < count; ++k) spread += (value[k] - center) * (value[k] - center);
        const Vector before = load<Vector>(mean + c), step = center - before;
        store(mean + c, before + step * share);
        store(squares + c, load<Vector>(squares + c) + (spread + step * step * weight));
    }
}

template <class T, class Vector>
void moments(const T* z, int64_t positions, int64_t channels, T* mean, T* squares) {
    clear(mean, channels);
    clear(squares, channels);
    int64_t at = 0;
    for (; at + 8 <= positions; at += 8) merge_positions<8, T, Vector>(z + at * channels, channels, at, mean, squares);
    if (at + 4 <= positions) {
        merge_positions<4, T, Vector>(z + at * channels, channels, at, mean, squares);
        at += 4;
    }
    for (; at < positions; ++at) merge_positions<1, T, Vector>(z + at * channels, channels, at, mean, squares);
}

// Sums by channel of zdot and d zdot.
template <int count, class T, class Vector>
FASTDC_INLINE void add_tangents(const T* z, const T* zdot, int64_t channels, const T* mean, T* sums) {
    constexpr int lanes = static_cast<int>(sizeof(Vector) / sizeof(T));
    for (int64_t c = 0; c < channels; c += lanes) {
        const Vector center = load<Vector>(mean + c);
        Vector d[count], zd[count];
        for (int k = 0; k < count; ++k) d[k] = load<Vector>(z + k * channels + c) - center;
        for (int k = 0; k < count; ++k) zd[k] = load<Vector>(zdot + k * channels + c);
        accumulate<count>(sums + c, zd);
        accumulate_products<count>(sums + channels + c, d, zd);
    }
}

template <class T, class Vector>
void tangent_sums(const T* z, const T* zdot, int64_t positions, int64_t channels, const T* mean, T* sums) {
    clear(sums, 2 * channels);
    int64_t at = 0;
    for (; at + 4 <= positions; at += 4) {
        add_tangents<4, T, Vector>(z + at * channels, zdot + at * channels, channels, mean, sums);
    }
    for (; at < positions; ++at) {
        add_tangents<1, T, Vector>(z + at * channels, zdot + at * channels, channels, mean, sums);
    }
}

// Channels that share their statistics.
FASTDC_INLINE int64_t channels_per_group(const BlockShape& shape) {
    return shape.norm == Norm::kGroup ? shape.channels / shape.groups : shape.norm == Norm::kLayer ? shape.channels : 1;
}

// Turns sums over the positions of each channel into means over all that shares its statistics.
template <class T>
FASTDC_INLINE void share_means(const BlockShape& shape, T* sums) {
    const int64_t size = channels_per_group(shape);
    const T share = T(1) / T(shape.height * shape.width * size);
    if (size == 1) {
        for (int64_t c = 0; c < shape.channels; ++c) sums[c] *= share;
        return;
    }
    for (int64_t first = 0; first < shape.channels; first += size) {
        T sum = T(0);
        for (int64_t c = first; c < first + size; ++c) sum += sums[c];
        for (int64_t c = first; c < first + size; ++c) sums[c] = sum * share;
    }
}

FASTDC_INLINE float square_root(float x) {
    return __builtin_sqrtf(x);
}
FASTDC_INLINE double square_root(double x) {
    return __builtin_sqrt(x);
}

template <class T, class Vector>
__attribute__((noinline)) void fill_stats(const BlockShape& shape, const T* z, const T* gamma, const T* beta,
                                          const T* frozen_mean, const T* frozen_var, T* stats) {
    const int64_t channels = shape.channels, positions = shape.height * shape.width, size = channels_per_group(shape);
    T* mean = stats;
    T* r = stats + channels;
    T* s = stats + 2 * channels;
    T* shift = stats + 3 * channels;
    if (shape.norm == Norm::kNone) {
        clear(mean, channels);
        for (int64_t c = 0; c < channels; ++c) r[c] = T(1);
    } else {
        if (shape.norm == Norm::kBatch) {
            for (int64_t c = 0; c < channels; ++c) mean[c] = frozen_mean[c];
            for (int64_t c = 0; c < channels; ++c) r[c] = frozen_var[c];
        } else {
            moments<T, Vector>(z, positions, channels, mean, r);
            if (size > 1) {
                for (int64_t first = 0; first < channels; first += size) {
                    T center = T(0);
                    for (int64_t c = first; c < first + size; ++c) center += mean[c];
                    center /= T(size);
                    for (int64_t c = first; c < first + size; ++c) {
                        r[c] += (mean[c] - center) * (mean[c] - center) * T(positions);
                        mean[c] = center;
                    }
                }
            }
            share_means(shape, r);
        }
        for (int64_t c = 0; c < channels; ++c)
            r[c] = T(1) / square_root(r[c] + static_cast<T>(shape.epsilon)) +
                   (r[c] - r[c]);  // NaN where the sum overflowed
    }
    const bool by_channel = shape.norm != Norm::kLayer && shape.norm != Norm::kNone;
    for (int64_t c = 0; c < channels; ++c) s[c] = by_channel ? gamma[c] * r[c] : r[c];
    for (int64_t c = 0; c < channels; ++c) shift[c] = by_channel ? beta[c] : T(0);
}

// The coefficients of the passes, by channel: in functions of their own, that the many templates below share them.

// From sums of gy and gy d, u and q in their place; adds to ggamma and gbeta [C], or both are null. Layer norm has the
// sums of gn and gn d, and has added already.
template <class T>
__attribute__((noinline)) void backward_coefficients(const BlockShape& shape, const T* gamma, const T* stats, T* ggamma,
                                                     T* gbeta, T* sums) {
    const int64_t channels = shape.channels;
    const T* r = stats + channels;
    T* sum = sums;
    T* product = sums + channels;
    for (int64_t c = 0; c < channels; ++c) product[c] *= r[c];
    if (shape.norm != Norm::kLayer) {
        if (ggamma) {
            for (int64_t c = 0; c < channels; ++c) gbeta[c] += sum[c];
            for (int64_t c = 0; c < channels; ++c) ggamma[c] += product[c];
        }
        if (shape.norm == Norm::kBatch) return;
        for (int64_t c = 0; c < channels; ++c) sum[c] *= gamma[c];
        for (int64_t c = 0; c < channels; ++c) product[c] *= gamma[c];
    }
    share_means(shape, sum);
    share_means(shape, product);
    for (int64_t c = 0; c < channels; ++c) sum[c] *= -r[c];
    for (int64_t c = 0; c < channels; ++c) product[c] *= -r[c] * r[c];
}

// t1, t2, k1, k0 [4, C].
template <class T, class Vector>
__attribute__((noinline)) void tangent_coefficients(const BlockShape& shape, const T* z, const T* zdot,
                                                    const T* gammadot, const T* betadot, const T* stats,
                                                    T* tangent_stats) {
    const int64_t channels = shape.channels;
    const T* r = stats + channels;
    const T* s = stats + 2 * channels;
    T* t1 = tangent_stats;
    T* t2 = tangent_stats + channels;
    T* k1 = tangent_stats + 2 * channels;
    T* k0 = tangent_stats + 3 * channels;
    if (shape.norm == Norm::kBatch || shape.norm == Norm::kNone) {
        clear(t1, 2 * channels);
    } else {
        tangent_sums<T, Vector>(z, zdot, shape.height * shape.width, channels, stats, t1);
        share_means(shape, t1);
        for (int64_t c = 0; c < channels; ++c) t2[c] *= r[c];
        share_means(shape, t2);
    }
    for (int64_t c = 0; c < channels; ++c) k1[c] = -s[c] * r[c] * t2[c];
    for (int64_t c = 0; c < channels; ++c) k0[c] = -s[c] * t1[c];
    if (shape.norm == Norm::kLayer || shape.norm == Norm::kNone) return;
    for (int64_t c = 0; c < channels; ++c) k1[c] += gammadot[c] * r[c];
    for (int64_t c = 0; c < channels; ++c) k0[c] += betadot[c];
}

// From sums of gy, gy d, gydot, gydot d + gy zdot (layer norm: of gn and gndot), u, q, v0, v1 in their place; adds the
// tangents of ggamma and gbeta [C] to ggammadot and gbetadot, or both are null. Layer norm has added already.
template <class T>
__attribute__((noinline)) void backward_tangent_coefficients(const BlockShape& shape, const T* gamma, const T* gammadot,
                                                             const T* stats, const T* tangent_stats, T* ggammadot,
                                                             T* gbetadot, T* sums) {
    const int64_t channels = shape.channels;
    const T* r = stats + channels;
    const T* t1 = tangent_stats;
    const T* t2 = tangent_stats + channels;
    T* sum = sums;
    T* product = sums + channels;
    T* sumdot = sums + 2 * channels;
    T* productdot = sums + 3 * channels;
    const bool by_channel = shape.norm != Norm::kLayer;
    for (int64_t c = 0; c < channels; ++c) {  // to those of gn, gn n, gndot, gndot n + gn ndot
        const T gain = by_channel ? gamma[c] : T(1);
        const T gaindot = by_channel ? gammadot[c] : T(0);
        const T n_sum = product[c] * r[c];
        const T n_sumdot = r[c] * (productdot[c] - t1[c] * sum[c] - t2[c] * n_sum);
        if (ggammadot && by_channel) {
            ggammadot[c] += n_sumdot;
            gbetadot[c] += sumdot[c];
        }
        productdot[c] = gaindot * n_sum + gain * n_sumdot;
        sumdot[c] = gaindot * sum[c] + gain * sumdot[c];
        product[c] = gain * n_sum;
        sum[c] *= gain;
    }
    share_means(shape, sum);
    share_means(shape, product);
    share_means(shape, sumdot);
    share_means(shape, productdot);
    for (int64_t c = 0; c < channels; ++c) {
        const T m1 = sum[c], m2 = product[c], rr = r[c] * r[c];
        sum[c] = -r[c] * m1;
        product[c] = -rr * m2;
        sumdot[c] = rr * (m2 * t1[c] + m1 * t2[c]) - r[c] * sumdot[c];
        productdot[c] = rr * (T(2) * r[c] * m2 * t2[c] - productdot[c]);
    }
}

}  // namespace
}  // namespace fastdc
