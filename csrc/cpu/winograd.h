// 3x3 and 5x5 convolutions (stride 1, padding 1 and 2) of channels-last maps by Winograd's F(4x4, 3x3) and F(2x2, 5x5):
// 36 products per tile of 4x4 or 2x2 outputs instead of 144 or 100, each of them one product of matrices over all tiles
// at once.
//
// With k the size of the kernel, t = 7 - k that of a tile, the window d [6, 6] of the input around a tile ((k - 1) / 2
// pixels to the left and above it, zero outside the map), the weights w [k, k] of one pair of channels and the outputs
// y [t, t] of the tile:
//
//     V = B^T d B        U = G w G^T        M = sum over input channels of V * U (36 products)        y = A^T M A
//
// and the adjoints, with gy [t, t] zero outside the map:
//
//     gM = A gy A^T      gV = sum over output channels of gM * U        gx = sum over tiles of B gV B^T
//     dU = sum over tiles of V * gM        gw += G^T dU G
//
// Points 0, a, -a, b, -b and infinity, with a = 5/8 and b = 3/2. Against the usual a = 1, b = 2 they halve the error in
// float of 3x3 (the smaller the spread of the powers, the better), and all entries of A and B are exact in float:
//
//     A^T = 1   1    1    1    1   0       B^T = a^2 b^2    0      -(a^2+b^2)      0        1  0
//           0   a   -a    b   -b   0               0    -a b^2       -b^2          a        1  0
//           0  a^2  a^2  b^2  b^2  0               0     a b^2       -b^2         -a        1  0
//           0  a^3 -a^3  b^3 -b^3  1               0    -a^2 b       -a^2          b        1  0
//                                                  0     a^2 b       -a^2         -b        1  0
//                                                  0    a^2 b^2        0      -(a^2+b^2)    0  1
//     of 5x5 A^T is the first two rows, with the 1 of infinity in the second
//     G = rows (1, p, ..., p^(k - 1)) / N(p) and (0, ..., 0, 1)
//
// where N(p) is the product of p - q over the other finite points q: N(0) = a^2 b^2, N(+-a) = 2 a^2 (a^2 - b^2) and
// N(+-b) = 2 b^2 (b^2 - a^2).
//
// Where products are rounded (operands.h) it is V, U and gM that are: the sums that follow make of the rounding some
// three times what a direct convolution makes of that of its operands.
//
// Layouts, all contiguous, C a multiple of 8:
//
//     x, y, gx, gy     [images, height, width, channels]
//     w, gw            [out_channels, in_channels, k, k]
//     v, m, gm, gv     36 planes [rows, channels], plane i * 6 + j for row i and column j of the transformed tile; rows
//                      are the tiles, image by image, each in raster order. Rows are padded_stride<T>(channels) and
//                      planes plane_size<T>(rows, channels) elements apart, sometimes a little more than they hold, for
//                      the sake of the caches; what lies between is neither read nor written. planes_size: all 36.
//     dU               the same with rows = in_channels and channels = out_channels
//     packed weights   36 packed operands of gemm.h, packed_plane_size<T>(k, n) apart: forward U with k = in_channels
//                      and n = out_channels, backward U^T with k = out_channels and n = in_channels
//
// Buffers should start at a multiple of 64 bytes (for speed only). A convolution forward is transform_input, multiply
// by the forward weights, transform_output; its gradient of the input is transform_output_adjoint, multiply by the
// backward weights, transform_input_adjoint; its gradient of the weights is accumulate_weight_products of the same v
// and gm, then transform_weights_adjoint. The calls work on any run of images; products of different planes touch no
// common memory, and every sum has a fixed order.
#pragma once

#include <cstdint>
#include <type_traits>

#include "gemm.h"
#include "vector.h"

namespace fastdc {
namespace {

constexpr int kWinogradWindow = 6;
constexpr int kWinogradProducts = 36;

constexpr int winograd_tile(int kernel) {
    return kWinogradWindow + 1 - kernel;
}

inline bool is_winograd_kernel(int64_t kernel) {
    return kernel == 3 || kernel == 5;
}

// Calls body with one of these kernels as a constant.
template <class Body>
FASTDC_INLINE void choose_kernel(int64_t kernel, const Body& body) {
    if (kernel == 3) return body(std::integral_constant<int, 3>{});
    return body(std::integral_constant<int, 5>{});
}

struct WinogradShape {
    int64_t kernel, images, height, width, in_channels, out_channels;

    int64_t tile() const { return winograd_tile(static_cast<int>(kernel)); }
    int64_t tile_rows() const { return (height + tile() - 1) / tile(); }
    int64_t tile_columns() const { return (width + tile() - 1) / tile(); }
    int64_t tiles() const { return images * tile_rows() * tile_columns(); }
};

// Elements rounded up to an odd number of cache lines: the 36 planes, which a transform walks side by side, would
// otherwise meet in the same set of the cache whenever their size is a multiple of 4096 bytes.
template <class T>
constexpr int64_t odd_lines(int64_t elements) {
    constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
    return ((elements + line - 1) / line | 1) * line;
}

// Elements from one plane [rows, channels] to the next, and of all 36.
template <class T>
constexpr int64_t plane_size(int64_t rows, int64_t channels) {
    return odd_lines<T>(rows * padded_stride<T>(channels));
}
template <class T>
constexpr int64_t planes_size(int64_t rows, int64_t channels) {
    return kWinogradProducts * plane_size<T>(rows, channels);
}

// The same for a packed operand [k, n].
template <class T>
constexpr int64_t packed_plane_size(int64_t k, int64_t n) {
    return odd_lines<T>(elements_of<T>(k) * padded_columns<T>(n));
}
template <class T>
constexpr int64_t packed_weights_size(int64_t k, int64_t n) {
    return kWinogradProducts * packed_plane_size<T>(k, n);
}

// The points, what follows from them, and rows of A: their powers, of 0 the first only.
template <class T>
struct WinogradPoints {
    static constexpr double a_ = 0.625, b_ = 1.5, a2_ = a_ * a_, b2_ = b_ * b_;
    static constexpr T a2b2 = T(a2_ * b2_), a2_plus_b2 = T(a2_ + b2_);
    static constexpr T ab2 = T(a_ * b2_), a2b = T(a2_ * b_);
    static constexpr T zero = T(1);
    static constexpr T a[] = {T(1), T(a_), T(a2_), T(a2_ * a_)};
    static constexpr T b[] = {T(1), T(b_), T(b2_), T(b2_ * b_)};
};

// Rows of G: the powers over N.
template <class T>
struct WinogradScaled {
    using P = WinogradPoints<T>;
    static constexpr double a_ = P::a_, b_ = P::b_, a2_ = P::a2_, b2_ = P::b2_;
    static constexpr double na_ = 2 * a2_ * (a2_ - b2_), nb_ = 2 * b2_ * (b2_ - a2_);
    static constexpr T zero = T(1 / (a2_ * b2_));
    static constexpr T a[] = {T(1 / na_), T(a_ / na_), T(a2_ / na_), T(a2_ * a_ / na_), T(a2_ * a2_ / na_)};
    static constexpr T b[] = {T(1 / nb_), T(b_ / nb_), T(b2_ / nb_), T(b2_ * b_ / nb_), T(b2_ * b2_ / nb_)};
};

// The one-dimensional transforms, on vectors of channels: out [outputs] from in [inputs].

// out = B^T in.
template <class T>
struct WinogradInput {
    static constexpr int inputs = 6, outputs = 6;
    using P = WinogradPoints<T>;

    template <class Vector>
    static FASTDC_INLINE void apply(const Vector* in, Vector* out) {
        const Vector even_a = in[4] - P::b[2] * in[2], odd_a = in[3] - P::b[2] * in[1];
        const Vector even_b = in[4] - P::a[2] * in[2], odd_b = in[3] - P::a[2] * in[1];
        out[0] = P::a2b2 * in[0] + (in[4] - P::a2_plus_b2 * in[2]);
        out[1] = even_a + P::a[1] * odd_a;
        out[2] = even_a - P::a[1] * odd_a;
        out[3] = even_b + P::b[1] * odd_b;
        out[4] = even_b - P::b[1] * odd_b;
        out[5] = P::a2b2 * in[1] + (in[5] - P::a2_plus_b2 * in[3]);
    }
};

// out = B in.
template <class T>
struct WinogradInputAdjoint {
    static constexpr int inputs = 6, outputs = 6;
    using P = WinogradPoints<T>;

    template <class Vector>
    static FASTDC_INLINE void apply(const Vector* in, Vector* out) {
        const Vector even_a = in[1] + in[2], odd_a = in[1] - in[2];
        const Vector even_b = in[3] + in[4], odd_b = in[3] - in[4];
        out[0] = P::a2b2 * in[0];
        out[1] = P::a2b2 * in[5] - P::ab2 * odd_a - P::a2b * odd_b;
        out[2] = -P::a2_plus_b2 * in[0] - P::b[2] * even_a - P::a[2] * even_b;
        out[3] = P::a[1] * odd_a + P::b[1] * odd_b - P::a2_plus_b2 * in[5];
        out[4] = in[0] + even_a + even_b;
        out[5] = in[5];
    }
};

// out = A in, or G in where the powers are scaled.
template <class Powers, int size>
struct WinogradAtPoints {
    static constexpr int inputs = size, outputs = 6;

    template <class Vector>
    static FASTDC_INLINE void apply(const Vector* in, Vector* out) {
        Vector even_a = Powers::a[0] * in[0], odd_a = Powers::a[1] * in[1];
        Vector even_b = Powers::b[0] * in[0], odd_b = Powers::b[1] * in[1];
#pragma GCC unroll 4
        for (int j = 2; j < size; ++j) {
            (j % 2 ? odd_a : even_a) += Powers::a[j] * in[j];
            (j % 2 ? odd_b : even_b) += Powers::b[j] * in[j];
        }
        out[0] = Powers::zero * in[0];
        out[1] = even_a + odd_a;
        out[2] = even_a - odd_a;
        out[3] = even_b + odd_b;
        out[4] = even_b - odd_b;
        out[5] = in[size - 1];
    }
};

// out = A^T in, or G^T in.
template <class Powers, int size>
struct WinogradAtPointsAdjoint {
    static constexpr int inputs = 6, outputs = size;

    template <class Vector>
    static FASTDC_INLINE void apply(const Vector* in, Vector* out) {
        const Vector even_a = in[1] + in[2], odd_a = in[1] - in[2];
        const Vector even_b = in[3] + in[4], odd_b = in[3] - in[4];
        out[0] = Powers::zero * in[0] + Powers::a[0] * even_a + Powers::b[0] * even_b;
#pragma GCC unroll 4
        for (int j = 1; j < size; ++j) {
            Vector of_b = Powers::b[j] * (j % 2 ? odd_b : even_b);
            if (j == size - 1) of_b += in[5];
            out[j] = Powers::a[j] * (j % 2 ? odd_a : even_a) + of_b;
        }
    }
};

// The transform of a square along both axes: first of its lines, then across what these become. read(l, line) fills in
// line l of the square, [inputs]; write(l, line) takes line l of the result along the other axis, [outputs].
template <class Transform, class Vector, class Read, class Write>
FASTDC_INLINE void transform_square(Read read, Write write) {
    constexpr int inputs = Transform::inputs, outputs = Transform::outputs;
    Vector half[inputs][outputs];
#pragma GCC unroll 1
    for (int l = 0; l < inputs; ++l) {
        Vector line[inputs];
        read(l, line);
        Transform::apply(line, half[l]);
    }
#pragma GCC unroll 1
    for (int l = 0; l < outputs; ++l) {
        Vector line[inputs], result[outputs];
#pragma GCC unroll 6
        for (int i = 0; i < inputs; ++i) line[i] = half[i][l];
        Transform::apply(line, result);
        write(l, result);
    }
}

// Column j of a transformed tile, whose 36 elements lie in as many planes, `plane` elements apart.
template <class T, class Vector>
FASTDC_INLINE void load_column(const T* from, int64_t plane, int j, Vector* column) {
#pragma GCC unroll 6
    for (int i = 0; i < kWinogradWindow; ++i) column[i] = load<Vector>(from + (i * kWinogradWindow + j) * plane);
}
template <class T, class Vector>
FASTDC_INLINE void store_column(T* to, int64_t plane, int j, const Vector* column) {
#pragma GCC unroll 6
    for (int i = 0; i < kWinogradWindow; ++i) store(to + (i * kWinogradWindow + j) * plane, column[i]);
}

// Channels that a tile is worked on at a time, so that the pixels outside the map can be read from one row of zeros and
// written to one row that nobody reads: the loops over channels then have no conditions.
constexpr int64_t kWinogradChunk = 128;

template <class T>
struct WinogradZeros {
    alignas(64) static constexpr T values[kWinogradChunk] = {};
};

// What the walk below comes to: the pixels of a tile, or of the window around it, and some of their channels.
template <int size, class T>
struct WinogradPatch {
    T* pixels[size * size];  // at the first of the channels
    int64_t row, column;     // of the tile, in tiles
    int64_t place;           // of the tile and its first channel in every plane
    int64_t channel, count;  // the first of the channels, and how many
};

// Calls visit(patch) for every tile and chunk of channels of a map [images, height, width, channels], in raster order;
// pixels outside the map are at `outside`.
template <int size, class T, class Visit>
FASTDC_INLINE void for_winograd_patches(const WinogradShape& shape, int64_t channels, T* map, T* outside, Visit visit) {
    const int64_t tile_rows = shape.tile_rows(), tile_columns = shape.tile_columns(), height = shape.height,
                  width = shape.width, tile = shape.tile(), margin = (size - tile) / 2;
    WinogradPatch<size, T> patch;
    int64_t place = 0;
    for (int64_t image = 0; image < shape.images; ++image, map += height * width * channels) {
        for (patch.row = 0; patch.row < tile_rows; ++patch.row) {
            for (patch.column = 0; patch.column < tile_columns; ++patch.column, place += padded_stride<T>(channels)) {
                const int64_t top = patch.row * tile - margin, left = patch.column * tile - margin;
                for (patch.channel = 0; patch.channel < channels; patch.channel += kWinogradChunk) {
                    const int64_t rest = channels - patch.channel;
                    patch.count = rest < kWinogradChunk ? rest : kWinogradChunk;
                    patch.place = place + patch.channel;
                    for (int64_t i = 0; i < size; ++i) {
                        const bool row_inside = top + i >= 0 && top + i < height;
                        for (int64_t j = 0; j < size; ++j) {
                            const bool inside = row_inside && left + j >= 0 && left + j < width;
                            patch.pixels[i * size + j] =
                                inside ? map + ((top + i) * width + left + j) * channels + patch.channel : outside;
                        }
                    }
                    visit(patch);
                }
            }
        }
    }
}

// Planes from a map, by the transform of the patch around each tile.
template <class Transform, class Vector, class T>
__attribute__((noinline)) void transform_to_planes(const WinogradShape& shape, int64_t channels, const T* map,
                                                   T* planes) {
    constexpr int lanes = sizeof(Vector) / sizeof(T), size = Transform::inputs;
    const int64_t plane = plane_size<T>(shape.tiles(), channels);
    const auto visit = [=](const WinogradPatch<size, const T>& patch) FASTDC_INLINE_LAMBDA {
        for (int64_t c = 0; c < patch.count; c += lanes) {
            const auto read = [&](int i, Vector* line) FASTDC_INLINE_LAMBDA {
#pragma GCC unroll 6
                for (int j = 0; j < size; ++j) line[j] = load<Vector>(patch.pixels[i * size + j] + c);
            };
            const auto write = [&](int j, const Vector* line)
                                   FASTDC_INLINE_LAMBDA { store_column(planes + patch.place + c, plane, j, line); };
            transform_square<Transform, Vector>(read, write);
        }
    };
    for_winograd_patches<size>(shape, channels, map, WinogradZeros<T>::values, visit);
}

template <int size, class Vector, class T>
__attribute__((noinline)) void transform_output_lanes(const WinogradShape& shape, const T* m, const T* bias, T* y) {
    constexpr int lanes = sizeof(Vector) / sizeof(T);
    const int64_t channels = shape.out_channels, plane = plane_size<T>(shape.tiles(), channels);
    alignas(64) T outside[kWinogradChunk];
    const auto visit = [=](const WinogradPatch<size, T>& patch) FASTDC_INLINE_LAMBDA {
        for (int64_t c = 0; c < patch.count; c += lanes) {
            const Vector start = bias != nullptr ? load<Vector>(bias + patch.channel + c) : Vector{};
            const auto read = [&](int j, Vector* line)
                                  FASTDC_INLINE_LAMBDA { load_column(m + patch.place + c, plane, j, line); };
            const auto write = [&](int i, const Vector* line) FASTDC_INLINE_LAMBDA {
#pragma GCC unroll 4
                for (int j = 0; j < size; ++j) store(patch.pixels[i * size + j] + c, line[j] + start);
            };
            transform_square<WinogradAtPointsAdjoint<WinogradPoints<T>, size>, Vector>(read, write);
        }
    };
    for_winograd_patches<size>(shape, channels, y, outside, visit);
}

template <class Vector, class T>
__attribute__((noinline)) void transform_input_adjoint_lanes(const WinogradShape& shape, const T* gv, T* gx) {
    constexpr int lanes = sizeof(Vector) / sizeof(T), size = kWinogradWindow;
    const int64_t channels = shape.in_channels, plane = plane_size<T>(shape.tiles(), channels);
    const int64_t overlap = size - shape.tile();
    alignas(64) T outside[kWinogradChunk];
    const auto visit = [&](const WinogradPatch<size, T>& patch) FASTDC_INLINE_LAMBDA {
        // Windows overlap. In raster order a pixel has been written before by a tile above it if it lies in the first
        // rows of the window, by a tile to the left if in the first columns, and else never.
        const T* before[size * size];
        for (int i = 0; i < size; ++i) {
            for (int j = 0; j < size; ++j) {
                const bool written = (i < overlap && patch.row > 0) || (j < overlap && patch.column > 0);
                const T* pixel = patch.pixels[i * size + j];
                before[i * size + j] = written && pixel != outside ? pixel : WinogradZeros<T>::values;
            }
        }
        for (int64_t c = 0; c < patch.count; c += lanes) {
            const auto read = [&](int j, Vector* line)
                                  FASTDC_INLINE_LAMBDA { load_column(gv + patch.place + c, plane, j, line); };
            const auto write = [&](int i, Vector* line) FASTDC_INLINE_LAMBDA {
#pragma GCC unroll 6
                for (int j = 0; j < size; ++j) line[j] += load<Vector>(before[i * size + j] + c);
#pragma GCC unroll 6
                for (int j = 0; j < size; ++j) store(patch.pixels[i * size + j] + c, line[j]);
            };
            transform_square<WinogradInputAdjoint<T>, Vector>(read, write);
        }
    };
    for_winograd_patches<size>(shape, channels, gx, outside, visit);
}

// v [36][tiles, in_channels] = B^T x B.
template <class T>
void transform_input(const WinogradShape& shape, const T* x, T* v) {
    choose_vector<T>(shape.in_channels, [&](auto vector) {
        transform_to_planes<WinogradInput<T>, typename decltype(vector)::type>(shape, shape.in_channels, x, v);
    });
}
// y = A^T m A + bias, m [36][tiles, out_channels]; bias may be null.
template <class T>
void transform_output(const WinogradShape& shape, const T* m, const T* bias, T* y) {
    choose_kernel(shape.kernel, [&](auto kernel) {
        choose_vector<T>(shape.out_channels, [&](auto vector) {
            transform_output_lanes<winograd_tile(kernel), typename decltype(vector)::type>(shape, m, bias, y);
        });
    });
}
// gm [36][tiles, out_channels] = A gy A^T.
template <class T>
void transform_output_adjoint(const WinogradShape& shape, const T* gy, T* gm) {
    choose_kernel(shape.kernel, [&](auto kernel) {
        using Transform = WinogradAtPoints<WinogradPoints<T>, winograd_tile(kernel)>;
        choose_vector<T>(shape.out_channels, [&](auto vector) {
            transform_to_planes<Transform, typename decltype(vector)::type>(shape, shape.out_channels, gy, gm);
        });
    });
}
// gx = B gv B^T, gv [36][tiles, in_channels], windows added where they overlap; overwrites gx.
template <class T>
void transform_input_adjoint(const WinogradShape& shape, const T* gv, T* gx) {
    choose_vector<T>(shape.in_channels, [&](auto vector) {
        transform_input_adjoint_lanes<typename decltype(vector)::type>(shape, gv, gx);
    });
}

// m [rows, n] (+)= v [rows, k] times the packed weights [k, n], for one of the 36 planes.
template <class T>
void multiply_plane(int plane, int64_t rows, int64_t k, int64_t n, const T* v, const T* packed, T* m, Write write) {
    multiply_packed<T>(rows, k, n, {v + plane * plane_size<T>(rows, k), padded_stride<T>(k)},
                       packed + plane * packed_plane_size<T>(k, n),
                       {m + plane * plane_size<T>(rows, n), padded_stride<T>(n)}, write);
}

// m [36][rows, n] = v [36][rows, k] times the packed weights [36][k, n].
template <class T>
void multiply(int64_t rows, int64_t k, int64_t n, const T* v, const T* packed, T* m) {
    for (int plane = 0; plane < kWinogradProducts; ++plane) {
        multiply_plane(plane, rows, k, n, v, packed, m, Write::kOver);
    }
}

// du [36][cin, cout] += v^T gm, v [36][rows, cin], gm [36][rows, cout]. rows >= 1.
template <class T>
void accumulate_weight_products(int64_t rows, int64_t cin, int64_t cout, const T* v, const T* gm, T* du) {
    for (int64_t plane = 0; plane < kWinogradProducts; ++plane) {
        multiply_transposed<T>(rows, cin, cout, {v + plane * plane_size<T>(rows, cin), padded_stride<T>(cin)},
                               {gm + plane * plane_size<T>(rows, cout), padded_stride<T>(cout)},
                               {du + plane * plane_size<T>(cin, cout), padded_stride<T>(cout)});
    }
}

// The elements, 8 i + 1, of a kernel of each of count lanes, a multiple of 8, from lanes lane_step apart to rows of
// lanes: to[q][lane].
template <int elements, int lanes, class T>
FASTDC_INLINE void gather_weights(const T* from, int64_t lane_step, int64_t count, T (*to)[lanes]) {
    constexpr int size = kSquare<T>;
    typedef typename VectorOf<T, size>::type Vector;
    for (int64_t lane = 0; lane < count; lane += size, from += size * lane_step) {
#pragma GCC unroll 4
        for (int q = 0; q < elements - 1; q += size) {
            Vector rows[size];
#pragma GCC unroll 4
            for (int i = 0; i < size; ++i) rows[i] = load<Vector>(from + i * lane_step + q);
            transpose_square(rows);
#pragma GCC unroll 4
            for (int i = 0; i < size; ++i) store(to[q + i] + lane, rows[i]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < size; ++i) to[elements - 1][lane + i] = from[i * lane_step + elements - 1];
    }
}
// The way back, adding.
template <int elements, int lanes, class T>
FASTDC_INLINE void scatter_weights(const T (*from)[lanes], T* to, int64_t lane_step) {
    constexpr int size = kSquare<T>;
    typedef typename VectorOf<T, size>::type Vector;
    static_assert(lanes % size == 0, "whole squares");
    for (int64_t lane = 0; lane < lanes; lane += size, to += size * lane_step) {
#pragma GCC unroll 4
        for (int q = 0; q < elements - 1; q += size) {
            Vector rows[size];
#pragma GCC unroll 4
            for (int i = 0; i < size; ++i) rows[i] = load<Vector>(from[q + i] + lane);
            transpose_square(rows);
#pragma GCC unroll 4
            for (int i = 0; i < size; ++i) {
                T* at = to + i * lane_step + q;
                store(at, load<Vector>(at) + rows[i]);
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < size; ++i) to[i * lane_step + elements - 1] += from[elements - 1][lane + i];
    }
}

// Pairs of channels whose weights are gathered before they are transformed: small pieces written to memory can only be
// read back as whole registers some time later.
constexpr int kWinogradGather = 8;

// packed [36][k, n] = G w G^T of the weights w[row * row_step + column * column_step] [kernel, kernel], padding columns
// zero.
template <int kernel, class T>
void pack_weights(const T* w, int64_t k, int64_t n, int64_t row_step, int64_t column_step, T* packed) {
    constexpr int lanes = kWide<T>, elements = kernel * kernel;
    const int64_t plane = packed_plane_size<T>(k, n);
    alignas(64) T gathered[kWinogradGather][elements][lanes] = {};
    for (int64_t column = 0; column < n; column += lanes) {
        const int64_t panel = column / kPanel<T> * kPanel<T>;
        const int64_t width = padded_columns<T>(n - panel) < kPanel<T> ? padded_columns<T>(n - panel) : kPanel<T>;
        const int64_t present = n - column < lanes ? n - column : lanes;
        if (present < lanes) std::memset(gathered, 0, sizeof gathered);
        for (int64_t row = 0; row < k; row += kWinogradGather) {
            const int64_t count = k - row < kWinogradGather ? k - row : kWinogradGather;
            for (int64_t r = 0; r < count; ++r) {
                gather_weights<elements, lanes>(w + (row + r) * row_step + column * column_step, column_step, present,
                                                gathered[r]);
            }
            for (int64_t r = 0; r < count; ++r) {
                T* to = packed + panel * elements_of<T>(k) + (row + r) / kTerms<T> * width + (column - panel);
                const auto read = [&](int i, Wide<T>* line) FASTDC_INLINE_LAMBDA {
#pragma GCC unroll 5
                    for (int j = 0; j < kernel; ++j) line[j] = load<Wide<T>>(gathered[r][i * kernel + j]);
                };
                const auto write = [&](int j, const Wide<T>* line) FASTDC_INLINE_LAMBDA {
#pragma GCC unroll 6
                    for (int i = 0; i < kWinogradWindow; ++i) {
                        put_number(row + r, line[i], to + (i * kWinogradWindow + j) * plane);
                    }
                };
                transform_square<WinogradAtPoints<WinogradScaled<T>, kernel>, Wide<T>>(read, write);
            }
        }
    }
}

// U = G w G^T of w [cout][cin][kernel][kernel], packed for v U (k = cin, n = cout) and, transposed, for gm U^T (k =
// cout, n = cin): packed_weights_size<T>(k, n) elements each. Either may be null.
template <class T>
void transform_weights(int64_t kernel, const T* w, int64_t cin, int64_t cout, T* packed_forward, T* packed_backward) {
    const int64_t elements = kernel * kernel;
    choose_kernel(kernel, [&](auto size) {
        if (packed_forward != nullptr) pack_weights<size>(w, cin, cout, elements, elements * cin, packed_forward);
        if (packed_backward != nullptr) pack_weights<size>(w, cout, cin, elements * cin, elements, packed_backward);
    });
}

template <int kernel, class Vector, class T>
void transform_weights_adjoint_lanes(int64_t cin, int64_t cout, const T* du, T* gw) {
    constexpr int lanes = sizeof(Vector) / sizeof(T), elements = kernel * kernel;
    const int64_t plane = plane_size<T>(cin, cout);
    alignas(64) T gathered[kWinogradGather][elements][lanes];
    for (int64_t column = 0; column < cout; column += lanes) {
        for (int64_t row = 0; row < cin; row += kWinogradGather) {
            const int64_t count = cin - row < kWinogradGather ? cin - row : kWinogradGather;
            for (int64_t r = 0; r < count; ++r) {
                const T* from = du + (row + r) * padded_stride<T>(cout) + column;
                const auto read = [&](int j, Vector* line) FASTDC_INLINE_LAMBDA { load_column(from, plane, j, line); };
                const auto write = [&](int i, const Vector* line) FASTDC_INLINE_LAMBDA {
#pragma GCC unroll 5
                    for (int j = 0; j < kernel; ++j) store(gathered[r][i * kernel + j], line[j]);
                };
                transform_square<WinogradAtPointsAdjoint<WinogradScaled<T>, kernel>, Vector>(read, write);
            }
            for (int64_t r = 0; r < count; ++r) {
                scatter_weights<elements, lanes>(gathered[r], gw + (column * cin + row + r) * elements, elements * cin);
            }
        }
    }
}

// gw [cout][cin][kernel][kernel] += G^T du G, du [36][cin, cout].
template <class T>
void transform_weights_adjoint(int64_t kernel, int64_t cin, int64_t cout, const T* du, T* gw) {
    choose_kernel(kernel, [&](auto size) {
        choose_vector<T>(cout, [&](auto vector) {
            transform_weights_adjoint_lanes<size, typename decltype(vector)::type>(cin, cout, du, gw);
        });
    });
}

}  // namespace
}  // namespace fastdc
