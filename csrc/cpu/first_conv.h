// The first convolution of the ConvNet: 3x3, padding 1, stride 1, from a planar image with few channels.
//
//     z[h, w, o] = bias[o] + sum_{i, a, b} x[i, h + a - 1, w + b - 1] weight[o, i, a, b]
//
//     x       [Cin, H, W]         planar, as torch and the user have it, given as `padded`; any Cin
//     z       [H, W, Cout]        channels last; Cout a multiple of 8
//     weight  [Cout, Cin, 3, 3]   torch
//     packed  [Cin * 9, Cout]     packed[(i * 3 + a) * 3 + b, o] = weight[o, i, a, b]; serves all three products
//     padded  [Cin, H + 2, W + 2] the image with a frame of zeros
//
//     weight gradient:  gpacked[(i, a, b), o] += sum_{h, w} padded[i, h + a, w + b] gz[h, w, o]
//     input gradient:   gx[i, h, w] = sum_{a, b, o} gz[h + 1 - a, w + 1 - b, o] packed[(i, a, b), o]
//
// One image at a time, one thread; every sum has a fixed order. The other layers have channels last on both sides and
// are matrix products over Cin; here Cin is too small for that, and the vectors run over Cout in all three products:
//   - forward: several pixels x several registers of channels are held while walking over the Cin * 9 taps;
//   - weight gradient: several taps x several registers of channels are held while walking over the pixels;
//   - input gradient: several pixels x input channels are held, each as a register of partial sums, while walking
//     over the taps and Cout; the lanes are added up at the end of each row (lane_sums.h).
// The frame of zeros makes the first two free of edge cases.
#pragma once

#include "lane_sums.h"
#include "vector.h"

namespace fastdc {
namespace {

// ---- Sizes, packing ----

// Made by first_shape.
struct FirstShape {
    int64_t cin, cout, height, width;
    int64_t row;    // of the padded image, in elements
    int64_t plane;  // of the padded image, in elements
};

inline FirstShape first_shape(int64_t cin, int64_t cout, int64_t height, int64_t width) {
    return {cin, cout, height, width, width + 2, (height + 2) * (width + 2)};
}

inline int64_t first_packed_size(int64_t cin, int64_t cout) {
    return cin * 9 * cout;
}

inline int64_t first_padded_size(int64_t cin, int64_t height, int64_t width) {
    return cin * (height + 2) * (width + 2);
}

// Elements of scratch that the input gradient needs: a row of partial sums of up to three input channels.
template <class T>
inline int64_t first_row_size(int64_t width) {
    return 3 * ((width + kWide<T> - 1) / kWide<T> * kWide<T>)*kWide<T>;
}

template <class T>
void pack_first_weights(int64_t cin, int64_t cout, const T* w, T* packed) {
    const int64_t taps = cin * 9;
    for (int64_t o = 0; o < cout; ++o) {
        for (int64_t t = 0; t < taps; ++t) packed[t * cout + o] = w[o * taps + t];
    }
}

// gw += gpacked in torch's order.
template <class T>
void unpack_first_weights(int64_t cin, int64_t cout, const T* gpacked, T* gw) {
    const int64_t taps = cin * 9;
    for (int64_t o = 0; o < cout; ++o) {
        for (int64_t t = 0; t < taps; ++t) gw[o * taps + t] += gpacked[t * cout + o];
    }
}

// ---- Forward ----

// `blocks` blocks of `pixels` neighbours in a row, `registers` registers of channels: x is the padded image at the tap
// (0, 0, 0) of the first pixel; packed, bias and z stand at the first channel.
template <class T, class Vector, int registers, int pixels>
__attribute__((noinline)) void first_forward_blocks(const FirstShape& shape, int64_t blocks, const T* x,
                                                    const T* packed, const T* bias, T* z) {
    constexpr int lanes = sizeof(Vector) / sizeof(T);
    const int64_t cin = shape.cin, cout = shape.cout, row = shape.row, plane = shape.plane;
    for (; blocks > 0; --blocks, x += pixels, z += pixels * cout) {
        Vector sum[pixels][registers];
#pragma GCC unroll 16
        for (int r = 0; r < registers; ++r) {
            const Vector start = bias ? load<Vector>(bias + r * lanes) : Vector{};
#pragma GCC unroll 16
            for (int p = 0; p < pixels; ++p) sum[p][r] = start;
        }
        const T* weights = packed;
        for (int64_t i = 0; i < cin; ++i) {
            const T* from = x + i * plane;
#pragma GCC unroll 1
            for (int a = 0; a < 3; ++a, from += row) {
#pragma GCC unroll 3
                for (int b = 0; b < 3; ++b, weights += cout) {
                    Vector weight[registers];
#pragma GCC unroll 16
                    for (int r = 0; r < registers; ++r) weight[r] = load<Vector>(weights + r * lanes);
#pragma GCC unroll 16
                    for (int p = 0; p < pixels; ++p) {
                        const T value = from[p + b];
#pragma GCC unroll 16
                        for (int r = 0; r < registers; ++r) sum[p][r] += weight[r] * value;
                    }
                }
            }
        }
#pragma GCC unroll 16
        for (int p = 0; p < pixels; ++p) {
#pragma GCC unroll 16
            for (int r = 0; r < registers; ++r) store(z + p * cout + r * lanes, sum[p][r]);
        }
    }
}

template <class T, class Vector, int registers, int pixels>
FASTDC_INLINE void first_forward_select(int wanted, const FirstShape& shape, int64_t blocks, const T* x,
                                        const T* packed, const T* bias, T* z) {
    if (wanted == pixels) {
        first_forward_blocks<T, Vector, registers, pixels>(shape, blocks, x, packed, bias, z);
    } else if constexpr (pixels > 1) {
        first_forward_select<T, Vector, registers, pixels - 1>(wanted, shape, blocks, x, packed, bias, z);
    }
}

// A row of pixels, cut evenly into blocks of at most `most` pixels, which leaves no slow remainder.
template <class T, class Vector, int registers, int most>
void first_forward_row(const FirstShape& shape, const T* x, const T* packed, const T* bias, T* z) {
    const int64_t blocks = (shape.width + most - 1) / most;
    const int few = static_cast<int>(shape.width / blocks);
    const int64_t larger = shape.width % blocks;  // blocks of few + 1
    if (larger > 0) {
        first_forward_select<T, Vector, registers, most>(few + 1, shape, larger, x, packed, bias, z);
        x += larger * (few + 1);
        z += larger * (few + 1) * shape.cout;
    }
    first_forward_select<T, Vector, registers, most>(few, shape, blocks - larger, x, packed, bias, z);
}

// z = conv(padded, packed) + bias; bias may be null.
template <class T>
void first_conv_forward(const FirstShape& shape, const T* padded, const T* packed, const T* bias, T* z) {
    constexpr int lanes = kWide<T>;
    // Of 32 registers about 24 may be accumulators, of 16 about 12: the rest holds the operands.
    constexpr int pixels_of_four = kManyRegisters ? 6 : 2;
    constexpr int pixels_of_two = kManyRegisters ? 8 : 6;
    const int64_t cout = shape.cout, height = shape.height, width = shape.width;
    for (int64_t h = 0; h < height; ++h) {
        const T* x = padded + h * shape.row;
        T* to = z + h * width * cout;
        int64_t o = 0;
        const T* shift = bias;
        if constexpr (kManyRegisters) {
            for (; o + 4 * lanes <= cout; o += 4 * lanes) {
                shift = bias ? bias + o : nullptr;
                first_forward_row<T, Wide<T>, 4, pixels_of_four>(shape, x, packed + o, shift, to + o);
            }
        }
        for (; o + 2 * lanes <= cout; o += 2 * lanes) {
            shift = bias ? bias + o : nullptr;
            first_forward_row<T, Wide<T>, 2, pixels_of_two>(shape, x, packed + o, shift, to + o);
        }
        if constexpr (lanes >= 8) {
            for (; o + lanes <= cout; o += lanes) {
                shift = bias ? bias + o : nullptr;
                first_forward_row<T, Wide<T>, 1, 8>(shape, x, packed + o, shift, to + o);
            }
        }
        if constexpr (lanes > 8) {
            for (; o < cout; o += 8) {
                shift = bias ? bias + o : nullptr;
                first_forward_row<T, Lanes<T>, 1, 8>(shape, x, packed + o, shift, to + o);
            }
        }
    }
}

// ---- Weight gradient ----

// `kernel_rows` x 3 taps of one input channel, `registers` registers of channels, over `rows` rows of pixels: x is the
// padded image at the first of the taps for the first pixel, gpacked stands at that tap, gz and gpacked at the first
// channel.
template <class T, class Vector, int registers, int kernel_rows>
__attribute__((noinline)) void first_gradient_block(const FirstShape& shape, int64_t rows, const T* x, const T* gz,
                                                    T* gpacked) {
    constexpr int lanes = sizeof(Vector) / sizeof(T);
    const int64_t cout = shape.cout, row = shape.row, width = shape.width;
    Vector sum[kernel_rows * 3][registers] = {};
    for (int64_t h = 0; h < rows; ++h, x += row) {
        for (int64_t w = 0; w < width; ++w, gz += cout) {
            Vector g[registers];
#pragma GCC unroll 16
            for (int r = 0; r < registers; ++r) g[r] = load<Vector>(gz + r * lanes);
#pragma GCC unroll 3
            for (int a = 0; a < kernel_rows; ++a) {
#pragma GCC unroll 3
                for (int b = 0; b < 3; ++b) {
                    const T value = x[a * row + w + b];
#pragma GCC unroll 16
                    for (int r = 0; r < registers; ++r) sum[a * 3 + b][r] += g[r] * value;
                }
            }
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < kernel_rows * 3; ++t) {
#pragma GCC unroll 16
        for (int r = 0; r < registers; ++r) {
            T* to = gpacked + t * cout + r * lanes;
            store(to, load<Vector>(to) + sum[t][r]);
        }
    }
}

// `registers` registers of channels from channel o on, over `rows` rows.
template <class T, class Vector, int registers, int kernel_rows>
FASTDC_INLINE void first_gradient_group(const FirstShape& shape, int64_t rows, int64_t o, const T* x, const T* gz,
                                        T* gpacked) {
    for (int64_t i = 0; i < shape.cin; ++i) {
        for (int a = 0; a < 3; a += kernel_rows) {
            first_gradient_block<T, Vector, registers, kernel_rows>(shape, rows, x + i * shape.plane + a * shape.row,
                                                                    gz + o, gpacked + (i * 9 + a * 3) * shape.cout + o);
        }
    }
}

// gpacked is added to.
template <class T>
void first_conv_weight_gradient(const FirstShape& shape, const T* padded, const T* gz, T* gpacked) {
    constexpr int lanes = kWide<T>;
    constexpr int large = kManyRegisters ? 2 : 4;
    constexpr int kernel_rows = kManyRegisters ? 3 : 1;
    const int64_t cout = shape.cout, height = shape.height, width = shape.width;
    // The same gz is read once for every input channel (and row of the kernel): a few rows at a time, so that the
    // second and later readings come from the first cache.
    const int64_t bytes = width * large * kRegisterBytes;
    const int64_t chunk = bytes < 16384 ? 16384 / bytes : 1;
    for (int64_t h = 0; h < height; h += chunk) {
        const int64_t rows = h + chunk < height ? chunk : height - h;
        const T* x = padded + h * shape.row;
        const T* from = gz + h * width * cout;
        int64_t o = 0;
        for (; o + large * lanes <= cout; o += large * lanes) {
            first_gradient_group<T, Wide<T>, large, kernel_rows>(shape, rows, o, x, from, gpacked);
        }
        if constexpr (large > 2) {
            for (; o + 2 * lanes <= cout; o += 2 * lanes) {
                first_gradient_group<T, Wide<T>, 2, kernel_rows>(shape, rows, o, x, from, gpacked);
            }
        }
        if constexpr (lanes >= 8) {
            for (; o + lanes <= cout; o += lanes) {
                first_gradient_group<T, Wide<T>, 1, 3>(shape, rows, o, x, from, gpacked);
            }
        }
        if constexpr (lanes > 8) {
            for (; o < cout; o += 8) first_gradient_group<T, Lanes<T>, 1, 3>(shape, rows, o, x, from, gpacked);
        }
    }
}

// ---- Input gradient ----

// `pixels` neighbours from column w on in row h, `channels` input channels: leaves the sums over the taps and the
// registers of Cout, one register for each pixel and channel, in sums [channels][stride].
template <class T, class Vector, int channels, int pixels>
__attribute__((noinline)) void first_input_block(const FirstShape& shape, int64_t h, int64_t w, const T* gz,
                                                 const T* packed, int64_t stride, T* sums) {
    constexpr int lanes = sizeof(Vector) / sizeof(T);
    const int64_t cout = shape.cout, width = shape.width;
    Vector sum[channels][pixels] = {};
    // Beyond the left and right edge gz is nought; the edge is that of the first and last block of a row only.
    const bool left = w > 0;
    const bool right = w + pixels < width;
    for (int a = 0; a < 3; ++a) {
        const int64_t from_row = h + 1 - a;
        if (from_row < 0 || from_row >= shape.height) continue;
        const T* from = gz + (from_row * width + w - 1) * cout;
        const T* weights = packed + a * 3 * cout;
        for (int64_t o = 0; o < cout; o += lanes) {
            if constexpr (kManyRegisters || channels < 3) {
                Vector weight[channels][3];
#pragma GCC unroll 16
                for (int i = 0; i < channels; ++i) {
#pragma GCC unroll 3
                    for (int b = 0; b < 3; ++b) weight[i][b] = load<Vector>(weights + (i * 9 + b) * cout + o);
                }
                // The pixel w - 1 + j meets the pixel of the result w + p through the column b of the kernel with
                // p = j - 2 + b: each value is loaded once for up to three columns.
#pragma GCC unroll 16
                for (int j = 0; j < pixels + 2; ++j) {
                    if ((j == 0 && !left) || (j == pixels + 1 && !right)) continue;
                    const Vector g = load<Vector>(from + j * cout + o);
#pragma GCC unroll 3
                    for (int b = 0; b < 3; ++b) {
                        const int p = j - 2 + b;
                        if (p < 0 || p >= pixels) continue;
#pragma GCC unroll 16
                        for (int i = 0; i < channels; ++i) sum[i][p] += weight[i][b] * g;
                    }
                }
            } else {
                // The weights of one column at a time: those of three do not fit beside the sums.
#pragma GCC unroll 3
                for (int b = 0; b < 3; ++b) {
                    Vector weight[channels];
#pragma GCC unroll 16
                    for (int i = 0; i < channels; ++i) weight[i] = load<Vector>(weights + (i * 9 + b) * cout + o);
#pragma GCC unroll 16
                    for (int p = 0; p < pixels; ++p) {
                        const int j = p + 2 - b;
                        if ((j == 0 && !left) || (j == pixels + 1 && !right)) continue;
                        const Vector g = load<Vector>(from + j * cout + o);
#pragma GCC unroll 16
                        for (int i = 0; i < channels; ++i) sum[i][p] += weight[i] * g;
                    }
                }
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < channels; ++i) {
#pragma GCC unroll 16
        for (int p = 0; p < pixels; ++p) store(sums + i * stride + p * lanes, sum[i][p]);
    }
}

template <class T, class Vector, int channels, int pixels>
FASTDC_INLINE void first_input_select(int wanted, const FirstShape& shape, int64_t h, int64_t w, const T* gz,
                                      const T* packed, int64_t stride, T* sums) {
    if (wanted == pixels) {
        first_input_block<T, Vector, channels, pixels>(shape, h, w, gz, packed, stride, sums);
    } else if constexpr (pixels > 1) {
        first_input_select<T, Vector, channels, pixels - 1>(wanted, shape, h, w, gz, packed, stride, sums);
    }
}

// `channels` input channels; packed and gx stand at the first of them.
template <class T, class Vector, int channels, int most>
void first_input_channels(const FirstShape& shape, const T* gz, const T* packed, Write write, T* sums, T* gx) {
    constexpr int lanes = sizeof(Vector) / sizeof(T);
    const int64_t width = shape.width;
    const int64_t rounded = (width + lanes - 1) / lanes * lanes;
    const int64_t blocks = (width + most - 1) / most;
    const int few = static_cast<int>(width / blocks);
    const int64_t larger = width % blocks;
    // lane_sums reads whole groups of registers; what stands behind the last pixel is summed and dropped.
    std::memset(sums, 0, channels * rounded * lanes * sizeof(T));
    for (int64_t h = 0; h < shape.height; ++h) {
        int64_t w = 0;
        for (int64_t block = 0; block < blocks; ++block) {
            const int pixels = few + (block < larger ? 1 : 0);
            first_input_select<T, Vector, channels, most>(pixels, shape, h, w, gz, packed, rounded * lanes,
                                                          sums + w * lanes);
            w += pixels;
        }
        for (int i = 0; i < channels; ++i) {
            T* to = gx + (i * shape.height + h) * width;
            for (w = 0; w < width; w += lanes) {
                const Vector sum = lane_sums<T, Vector>(sums + (i * rounded + w) * lanes);
                if (w + lanes <= width) {
                    store(to + w, write == Write::kAdd ? load<Vector>(to + w) + sum : sum);
                } else {
                    T rest[lanes];
                    store(rest, sum);
                    for (int64_t p = w; p < width; ++p)
                        to[p] = write == Write::kAdd ? to[p] + rest[p - w] : rest[p - w];
                }
            }
        }
    }
}

template <class T, class Vector>
void first_input_vector(const FirstShape& shape, const T* gz, const T* packed, Write write, T* sums, T* gx) {
    constexpr int most_of_three = kManyRegisters ? 6 : 3;  // four would just fit into 16, and are spilled
    constexpr int most_of_two = kManyRegisters ? 8 : 4;
    constexpr int most_of_one = kManyRegisters ? 12 : 8;
    const int64_t weights = 9 * shape.cout, plane = shape.height * shape.width;
    int64_t i = 0;
    for (; i + 3 <= shape.cin; i += 3) {
        first_input_channels<T, Vector, 3, most_of_three>(shape, gz, packed + i * weights, write, sums, gx + i * plane);
    }
    if (i + 2 == shape.cin) {
        first_input_channels<T, Vector, 2, most_of_two>(shape, gz, packed + i * weights, write, sums, gx + i * plane);
    } else if (i + 1 == shape.cin) {
        first_input_channels<T, Vector, 1, most_of_one>(shape, gz, packed + i * weights, write, sums, gx + i * plane);
    }
}

// gx = or += the gradient; packed as for the forward pass; scratch of first_row_size<T>(width).
template <class T>
void first_conv_input_gradient(const FirstShape& shape, const T* gz, const T* packed, Write write, T* scratch, T* gx) {
    choose_vector<T>(shape.cout, [&](auto vector) {
        first_input_vector<T, typename decltype(vector)::type>(shape, gz, packed, write, scratch, gx);
    });
}

}  // namespace
}  // namespace fastdc
