// The classifier at the end of the ConvNet, and the loss: linear layer, softmax cross-entropy, their gradients and
// tangents.
//
//     logits[m, k] = bias[k] + sum_j f[m, j] packed[k, j]
//     loss = scale * sum_m (log sum_k exp(logits[m, k]) - logits[m, labels[m]])
//     glogits[m, k] = scale * (p[m, k] - [k == labels[m]]),   p = softmax(logits)
//     gf = glogits packed,   gpacked += glogits^T f,   gbias += sum_m glogits[m]
//
//     f       [n, F]        features of n images, channels last: j = (h * W + w) * C + c; F a multiple of 8
//     weight  [K, F]        torch: j = (c * H + h) * W + w
//     packed  [K, F]        the same in the order of f
//     bias    [K], logits and glogits [n, K], labels int64 [n] within 0 ... K - 1; any n and K
//
// With soft labels, shares q [n, K] of the classes:
//     loss = scale * sum_m sum_k q[m, k] (log sum_l exp(logits[m, l]) - logits[m, k])
//     glogits[m, k] = scale * (p[m, k] sum_l q[m, l] - q[m, k])
//
// A tangent (name "dot") is the derivative along a direction in all arguments:
//     logitsdot = biasdot + fdot packed^T + f packeddot^T
//     glogitsdot[m, k] = scale * p[m, k] * (logitsdot[m, k] - sum_l p[m, l] logitsdot[m, l])
//     gfdot = glogitsdot packed + glogits packeddot
//     gpackeddot = glogitsdot^T f + glogits^T fdot
//
// Distillation adds to the loss, for each group of classes, with shares q [n, K'] that sum to 1 within a group and
// K' <= K classes in all groups,
//     - scale * sum_m sum_{k in group} q[m, k] log softmax_group(logits[m] / t)[k]
//     glogits[m, k] += scale / t * (softmax_group(logits[m] / t)[k] - q[m, k])
//
// Two kernels do the work: products of rows, with vectors along F that are summed across lanes at the end (forward),
// and combinations of rows (both gradients). One thread; every sum has a fixed order, which depends on the shapes
// alone.
#pragma once

#include "lane_sums.h"
#include "vector.h"

namespace fastdc {
namespace {

struct LinearShape {
    int64_t images, features, classes;
};

// ---- Packing ----

template <class T>
void pack_linear_weights(int64_t classes, int64_t channels, int64_t height, int64_t width, const T* weight, T* packed) {
    const int64_t pixels = height * width;
    for (int64_t k = 0; k < classes; ++k, weight += channels * pixels, packed += channels * pixels) {
        for (int64_t p = 0; p < pixels; ++p) {
            for (int64_t c = 0; c < channels; ++c) packed[p * channels + c] = weight[c * pixels + p];
        }
    }
}

// gweight += gpacked in torch's order.
template <class T>
void unpack_linear_gradient(int64_t classes, int64_t channels, int64_t height, int64_t width, const T* gpacked,
                            T* gweight) {
    const int64_t pixels = height * width;
    for (int64_t k = 0; k < classes; ++k, gweight += channels * pixels, gpacked += channels * pixels) {
        for (int64_t c = 0; c < channels; ++c) {
            for (int64_t p = 0; p < pixels; ++p) gweight[c * pixels + p] += gpacked[p * channels + c];
        }
    }
}

// ---- Products of rows ----

// out[i * out_stride + k] += sum_j a[i, j] b[k, j] for `rows` rows of a and `columns` rows of b.
template <class T, class Vector, int rows, int columns>
__attribute__((noinline)) void linear_dot_block(int64_t features, const T* a, const T* b, int64_t out_stride, T* out) {
    constexpr int lanes = sizeof(Vector) / sizeof(T);
    constexpr int count = rows * columns;
    constexpr int rounded = (count + lanes - 1) / lanes * lanes;
    Vector sum[rows][columns] = {};
    for (int64_t j = 0; j < features; j += lanes) {
        Vector left[rows];
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) left[i] = load<Vector>(a + i * features + j);
#pragma GCC unroll 16
        for (int k = 0; k < columns; ++k) {
            const Vector right = load<Vector>(b + k * features + j);
#pragma GCC unroll 16
            for (int i = 0; i < rows; ++i) sum[i][k] += left[i] * right;
        }
    }
    T partial[rounded * lanes];
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
        for (int k = 0; k < columns; ++k) store(partial + (i * columns + k) * lanes, sum[i][k]);
    }
    for (int i = count * lanes; i < rounded * lanes; ++i) partial[i] = 0;
    T total[rounded];
    for (int i = 0; i < rounded; i += lanes) store(total + i, lane_sums<T, Vector>(partial + i * lanes));
    for (int i = 0; i < rows; ++i) {
        for (int k = 0; k < columns; ++k) out[i * out_stride + k] += total[i * columns + k];
    }
}

template <class T, class Vector, int rows, int columns>
FASTDC_INLINE void linear_dot_select(int wanted_rows, int wanted_columns, int64_t features, const T* a, const T* b,
                                     int64_t out_stride, T* out) {
    if (wanted_rows == rows && wanted_columns == columns) {
        linear_dot_block<T, Vector, rows, columns>(features, a, b, out_stride, out);
    } else if (wanted_rows < rows) {
        if constexpr (rows > 1) {
            linear_dot_select<T, Vector, rows - 1, columns>(wanted_rows, wanted_columns, features, a, b, out_stride,
                                                            out);
        }
    } else {
        if constexpr (columns > 1) {
            linear_dot_select<T, Vector, rows, columns - 1>(wanted_rows, wanted_columns, features, a, b, out_stride,
                                                            out);
        }
    }
}

// out [n, K] += a [n, F] b [K, F]^T, cut evenly into blocks in both directions.
template <class T, class Vector>
void linear_dot_vector(const LinearShape& shape, const T* a, const T* b, T* out) {
    const int64_t n = shape.images, features = shape.features, classes = shape.classes;
    constexpr int most_rows = kManyRegisters ? 4 : 2;
    constexpr int most_columns = 5;
    const int64_t row_blocks = (n + most_rows - 1) / most_rows;
    const int64_t column_blocks = (classes + most_columns - 1) / most_columns;
    int64_t m = 0;
    for (int64_t row_block = 0; row_block < row_blocks; ++row_block) {
        const int rows = static_cast<int>(n / row_blocks + (row_block < n % row_blocks ? 1 : 0));
        int64_t k = 0;
        for (int64_t column_block = 0; column_block < column_blocks; ++column_block) {
            const int columns =
                static_cast<int>(classes / column_blocks + (column_block < classes % column_blocks ? 1 : 0));
            linear_dot_select<T, Vector, most_rows, most_columns>(rows, columns, features, a + m * features,
                                                                  b + k * features, classes, out + m * classes + k);
            k += columns;
        }
        m += rows;
    }
}

template <class T>
void linear_dot(const LinearShape& shape, const T* a, const T* b, T* out) {
    choose_vector<T>(shape.features,
                     [&](auto vector) { linear_dot_vector<T, typename decltype(vector)::type>(shape, a, b, out); });
}

// ---- Combinations of rows ----

// Factors [count, terms] of combinations: that of row i and term l is at[i * row_step + l * step].
template <class T>
struct Factors {
    const T* at;
    int64_t row_step, step;
};

// out[i, j] = or += sum_l a[i, l] b[l, j] for `rows` rows of out, and `registers` registers of j.
template <class T, class Vector, int rows, int registers>
__attribute__((noinline)) void linear_combine_block(int64_t features, int64_t terms, Factors<T> a, const T* b,
                                                    Write write, T* out) {
    constexpr int lanes = sizeof(Vector) / sizeof(T);
    Vector sum[rows][registers] = {};
    for (int64_t l = 0; l < terms; ++l, a.at += a.step, b += features) {
        Vector right[registers];
#pragma GCC unroll 16
        for (int r = 0; r < registers; ++r) right[r] = load<Vector>(b + r * lanes);
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) {
            const T factor = a.at[i * a.row_step];
#pragma GCC unroll 16
            for (int r = 0; r < registers; ++r) sum[i][r] += right[r] * factor;
        }
    }
    if (write == Write::kAdd) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
            for (int r = 0; r < registers; ++r) sum[i][r] += load<Vector>(out + i * features + r * lanes);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
        for (int r = 0; r < registers; ++r) store(out + i * features + r * lanes, sum[i][r]);
    }
}

template <class T, class Vector, int rows, int registers>
FASTDC_INLINE void linear_combine_select(int wanted, int64_t features, int64_t terms, Factors<T> a, const T* b,
                                         Write write, T* out) {
    if (wanted == rows) {
        linear_combine_block<T, Vector, rows, registers>(features, terms, a, b, write, out);
    } else if constexpr (rows > 1) {
        linear_combine_select<T, Vector, rows - 1, registers>(wanted, features, terms, a, b, write, out);
    }
}

template <class T, class Vector>
void linear_combine_vector(int64_t count, int64_t features, int64_t terms, Factors<T> a, const T* b, Write write,
                           T* out) {
    constexpr int lanes = sizeof(Vector) / sizeof(T);
    constexpr int registers = kManyRegisters ? 4 : 2;
    constexpr int block_columns = registers * lanes;
    constexpr int most = 4;
    // The rows of b are read once for every block of rows of out: some terms and columns at a time, which stay in the
    // first cache. Few terms: F is often a multiple of 4096 bytes, and then the same columns of all rows compete for
    // the same sets.
    constexpr int64_t most_terms = 16;
    const int64_t parts = terms > 0 ? (terms + most_terms - 1) / most_terms : 1;
    const int64_t blocks = (count + most - 1) / most;
    int64_t l = 0;
    for (int64_t part = 0; part < parts; ++part) {
        const int64_t some = terms / parts + (part < terms % parts ? 1 : 0);
        const Write each = part > 0 ? Write::kAdd : write;
        const int64_t fitting = 20480 / static_cast<int64_t>(sizeof(T)) / (some + 1) / block_columns * block_columns;
        const int64_t chunk = fitting > block_columns ? fitting : block_columns;
        for (int64_t start = 0; start < features; start += chunk) {
            const int64_t end = start + chunk < features ? start + chunk : features;
            int64_t i = 0;
            for (int64_t block = 0; block < blocks; ++block) {
                const int rows = static_cast<int>(count / blocks + (block < count % blocks ? 1 : 0));
                const Factors<T> left = {a.at + i * a.row_step + l * a.step, a.row_step, a.step};
                const T* right = b + l * features;
                T* to = out + i * features;
                int64_t j = start;
                for (; j + block_columns <= end; j += block_columns) {
                    linear_combine_select<T, Vector, most, registers>(rows, features, some, left, right + j, each,
                                                                      to + j);
                }
                for (; j < end; j += lanes) {
                    linear_combine_select<T, Vector, most, 1>(rows, features, some, left, right + j, each, to + j);
                }
                i += rows;
            }
        }
        l += some;
    }
}

// out [count, F] = or += a b, with factors a [count, terms] and b [terms, F].
template <class T>
void linear_combine(int64_t count, int64_t features, int64_t terms, Factors<T> a, const T* b, Write write, T* out) {
    choose_vector<T>(features, [&](auto vector) {
        linear_combine_vector<T, typename decltype(vector)::type>(count, features, terms, a, b, write, out);
    });
}

// ---- Linear layer ----

// bias may be null.
template <class T>
void linear_forward(const LinearShape& shape, const T* f, const T* packed, const T* bias, T* logits) {
    for (int64_t m = 0; m < shape.images; ++m) {
        for (int64_t k = 0; k < shape.classes; ++k) logits[m * shape.classes + k] = bias ? bias[k] : T(0);
    }
    linear_dot(shape, f, packed, logits);
}

// gf = or += glogits packed.
template <class T>
void linear_input_gradient(const LinearShape& shape, const T* glogits, const T* packed, Write write, T* gf) {
    linear_combine<T>(shape.images, shape.features, shape.classes, {glogits, shape.classes, 1}, packed, write, gf);
}

// gpacked += glogits^T f, gbias += the sum of glogits, where it is not null.
template <class T>
void linear_weight_gradient(const LinearShape& shape, const T* glogits, const T* f, T* gpacked, T* gbias) {
    const int64_t classes = shape.classes;
    linear_combine<T>(classes, shape.features, shape.images, {glogits, 1, classes}, f, Write::kAdd, gpacked);
    for (int64_t m = 0; m < shape.images && gbias; ++m) {
        for (int64_t k = 0; k < classes; ++k) gbias[k] += glogits[m * classes + k];
    }
}

// biasdot may be null: nought.
template <class T>
void linear_forward_tangent(const LinearShape& shape, const T* f, const T* fdot, const T* packed, const T* packeddot,
                            const T* biasdot, T* logitsdot) {
    linear_forward(shape, fdot, packed, biasdot, logitsdot);
    linear_dot(shape, f, packeddot, logitsdot);
}

// ---- Softmax and cross-entropy ----

// The C functions and not std::exp, an inline function with external linkage, of which the linker would keep the copy
// of any one instruction set. K values a row do not deserve a vectorised exponential.
FASTDC_INLINE float linear_exp(float x) {
    return __builtin_expf(x);
}
FASTDC_INLINE double linear_exp(double x) {
    return __builtin_exp(x);
}

// to = exp(row - its maximum); returns the sum. A NaN may lose the comparisons, but not the exponential and the sum.
template <class T>
FASTDC_INLINE T linear_exponentials(int64_t classes, const T* row, T* to) {
    T largest = row[0];
    for (int64_t k = 1; k < classes; ++k) largest = row[k] > largest ? row[k] : largest;
    T sum = 0;
    for (int64_t k = 0; k < classes; ++k) {
        to[k] = linear_exp(row[k] - largest);
        sum += to[k];
    }
    return sum;
}

// glogits may not be logits.
template <class T>
void loss_gradient(int64_t n, int64_t classes, const T* logits, const int64_t* labels, T scale, T* glogits) {
    for (int64_t m = 0; m < n; ++m, logits += classes, glogits += classes) {
        const T sum = linear_exponentials(classes, logits, glogits);
        const T factor = scale / sum;
        for (int64_t k = 0; k < classes; ++k) glogits[k] *= factor;
        glogits[labels[m]] -= scale;
    }
}

// The same of one image with soft labels: see above.
template <class T>
void soft_loss_gradient(int64_t classes, const T* logits, const T* shares, T scale, T* glogits) {
    const T sum = linear_exponentials(classes, logits, glogits);
    T whole = 0;
    for (int64_t k = 0; k < classes; ++k) whole += shares[k];
    const T factor = scale * whole / sum;
    for (int64_t k = 0; k < classes; ++k) glogits[k] = glogits[k] * factor - scale * shares[k];
}

// glogits += the gradient of the distillation of one image: see above. `classes` of each of `groups` groups.
template <class T>
void add_distillation_gradient(int64_t groups, const int64_t* classes, T temperature, const T* logits, const T* shares,
                               T scale, T* glogits) {
    const T cold = 1 / temperature;
    for (int64_t g = 0; g < groups; logits += classes[g], shares += classes[g], glogits += classes[g], ++g) {
        T largest = logits[0], sum = 0;
        for (int64_t k = 1; k < classes[g]; ++k) largest = logits[k] > largest ? logits[k] : largest;
        for (int64_t k = 0; k < classes[g]; ++k) sum += linear_exp((logits[k] - largest) * cold);
        for (int64_t k = 0; k < classes[g]; ++k) {
            glogits[k] += scale * cold * (linear_exp((logits[k] - largest) * cold) / sum - shares[k]);
        }
    }
}

// The labels drop out of the derivative.
template <class T>
void loss_gradient_tangent(int64_t n, int64_t classes, const T* logits, const T* logitsdot, T scale, T* glogitsdot) {
    for (int64_t m = 0; m < n; ++m, logits += classes, logitsdot += classes, glogitsdot += classes) {
        const T sum = linear_exponentials(classes, logits, glogitsdot);
        T mean = 0;
        for (int64_t k = 0; k < classes; ++k) mean += glogitsdot[k] * logitsdot[k];
        mean /= sum;
        const T factor = scale / sum;
        for (int64_t k = 0; k < classes; ++k) glogitsdot[k] *= factor * (logitsdot[k] - mean);
    }
}

}  // namespace
}  // namespace fastdc
