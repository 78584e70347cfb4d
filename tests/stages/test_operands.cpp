// Test of products that are rounded, operands.h and gemm.h, and of the convolutions by winograd.h that are made of
// them.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "csrc/cpu/patch_conv.h"
#include "csrc/cpu/winograd.h"
#include "tests/stages/numbers.h"

using namespace fastdc;

static_assert(kRounded<float> && !kRounded<double>, "this is compiled with FASTDC_BFLOAT16");

static void check(const char* what, int64_t rows, int64_t k, int64_t n, double error, double tolerance) {
    if (error <= tolerance) return;
    std::printf("FAILED %s, %d x %d x %d: %g\n", what, (int)rows, (int)k, (int)n, error);
    std::exit(1);
}

// To the nearest bfloat16, of two equally near to the even one.
static double rounded(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// C [rows, n] = A [rows, k] B [k, n] of rounded numbers, by their places.
template <class A, class B>
static std::vector<double> plain(int64_t rows, int64_t k, int64_t n, A a, B b) {
    std::vector<double> c(rows * n);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t p = 0; p < k; ++p)
            for (int64_t j = 0; j < n; ++j) c[i * n + j] += rounded(a(i, p)) * rounded(b(p, j));
    return c;
}

static void as_it_is(int64_t rows, int64_t k, int64_t n) {
    const auto a = random_values<float>(rows * k), b = random_values<float>(k * n);
    std::vector<float> packed(patch_packed_size<float>(k, n), NAN), c(rows * n, NAN);
    pack_patch_weights(patch_shape(1, 1, 1, k, n, {1, 1, 1, 0}), b.data(), packed.data());  // b is transposed
    multiply_packed<float>(rows, k, n, {a.data(), k}, packed.data(), {c.data(), n}, Write::kOver);
    auto expected =
        plain(rows, k, n, [&](auto i, auto p) { return a[i * k + p]; }, [&](auto p, auto j) { return b[j * k + p]; });
    check("as it is", rows, k, n, difference(c, expected), 1e-6);
    multiply_packed<float>(rows, k, n, {a.data(), k}, packed.data(), {c.data(), n}, Write::kAdd);
    for (double& value : expected) value *= 2;
    check("added", rows, k, n, difference(c, expected), 1e-6);
}

static void transposed(int64_t rows, int64_t k, int64_t n) {
    const auto a = random_values<float>(rows * k), b = random_values<float>(rows * n);
    std::vector<float> c(k * n);
    multiply_transposed<float>(rows, k, n, {a.data(), k}, {b.data(), n}, {c.data(), n});
    const auto expected =
        plain(k, rows, n, [&](auto i, auto p) { return a[p * k + i]; }, [&](auto p, auto j) { return b[p * n + j]; });
    check("transposed", rows, k, n, difference(c, expected), 1e-6);
}

// One patch of an odd number of channels, whose weights do not come in the order of its elements; and the way back.
static void patch(int64_t side, int64_t channels, int64_t n) {
    const PatchShape shape = patch_shape(1, side, side, channels, n, {side, side, 1, 0});
    const int64_t pixels = side * side, k = pixels * channels;
    const auto map = random_values<float>(k), w = random_values<float>(n * k), gz = random_values<float>(n);
    const auto weight = [&](int64_t p, int64_t o) { return w[o * k + p % channels * pixels + p / channels]; };
    std::vector<float> packed(patch_packed_size<float>(shape.depth(), n), NAN),
        patches(patches_size<float>(shape), NAN);
    std::vector<float> z(n, NAN), gmap(k, NAN);
    pack_patch_weights(shape, w.data(), packed.data());
    const PatchTerm<float> forward[] = {{map.data(), packed.data()}};
    patch_forward<float>(shape, forward, 1, nullptr, patches.data(), z.data());
    const auto expected = plain(1, k, n, [&](auto, auto p) { return map[p]; }, weight);
    check("patch", 1, k, n, difference(z, expected), 1e-6);
    packed.assign(patch_packed_size<float>(n, shape.depth()), NAN);
    pack_patch_weights_backward(shape, w.data(), packed.data());
    const PatchTerm<float> backward[] = {{gz.data(), packed.data()}};
    patch_input_gradient<float>(shape, backward, 1, patches.data(), gmap.data());
    const auto pulled =
        plain(1, n, k, [&](auto, auto o) { return gz[o]; }, [&](auto o, auto p) { return weight(p, o); });
    check("patch, back", 1, n, k, difference(gmap, pulled), 1e-6);
}

static double distance(const std::vector<float>& found, const std::vector<double>& expected) {
    double error = 0, size = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        error += (found[i] - expected[i]) * (found[i] - expected[i]);
        size += expected[i] * expected[i];
    }
    return std::sqrt(error / size);
}

// A convolution of white noise and both its gradients, against plain double arithmetic.
static void convolution(const WinogradShape& s) {
    const int64_t in = s.in_channels, out = s.out_channels, pixels = s.images * s.height * s.width, tiles = s.tiles();
    const auto x = random_values<float>(pixels * in), w = random_values<float>(out * in * 9);
    const auto gy = random_values<float>(pixels * out);
    std::vector<double> y(pixels * out), gx(x.size()), gw(w.size());
    for (int64_t at = 0; at < pixels; ++at)
        for (int64_t tap = 0; tap < 9; ++tap) {
            const int64_t row = at / s.width % s.height + tap / 3 - 1, column = at % s.width + tap % 3 - 1;
            if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
            const int64_t from = (at / (s.height * s.width) * s.height + row) * s.width + column;
            for (int64_t o = 0; o < out; ++o)
                for (int64_t i = 0; i < in; ++i) {
                    const int64_t weight = (o * in + i) * 9 + tap;
                    y[at * out + o] += static_cast<double>(x[from * in + i]) * w[weight];
                    gx[from * in + i] += static_cast<double>(gy[at * out + o]) * w[weight];
                    gw[weight] += static_cast<double>(gy[at * out + o]) * x[from * in + i];
                }
        }
    std::vector<float> v(planes_size<float>(tiles, in)), m(planes_size<float>(tiles, out));
    std::vector<float> du(planes_size<float>(in, out)), found_y(y.size()), found_x(x.size()), found_w(w.size());
    std::vector<float> forward(packed_weights_size<float>(in, out)), backward(packed_weights_size<float>(out, in));
    transform_weights<float>(s.kernel, w.data(), in, out, forward.data(), backward.data());
    transform_input<float>(s, x.data(), v.data());
    multiply<float>(tiles, in, out, v.data(), forward.data(), m.data());
    transform_output<float>(s, m.data(), nullptr, found_y.data());
    transform_output_adjoint<float>(s, gy.data(), m.data());
    accumulate_weight_products<float>(tiles, in, out, v.data(), m.data(), du.data());
    transform_weights_adjoint<float>(s.kernel, in, out, du.data(), found_w.data());
    multiply<float>(tiles, out, in, m.data(), backward.data(), v.data());
    transform_input_adjoint<float>(s, v.data(), found_x.data());
    const double errors[] = {distance(found_y, y), distance(found_x, gx), distance(found_w, gw)};
    std::printf("%dx%d, %d -> %d: errors %.1e %.1e %.1e (forward, input gradient, weight gradient)\n", (int)s.height,
                (int)s.width, (int)in, (int)out, errors[0], errors[1], errors[2]);
    for (const double error : errors) check("convolution", tiles, in, out, error, 2e-2);
}

int main() {
    for (int64_t rows = 1; rows < 31; ++rows)
        for (int64_t n = 8; n <= 72; n += 8) as_it_is(rows, 24, n), transposed(rows, 24, n);
    for (const int64_t k : {8, 120, 248, 256, 264, 600}) as_it_is(20, k, 40), transposed(21, k, 40);
    for (const int64_t rows : {127, 128, 129, 255, 300}) transposed(rows, 40, 24);
    for (const int64_t channels : {1, 3, 8}) patch(3, channels, 16), patch(5, channels, 40);
    convolution({3, 2, 8, 8, 32, 32});
    convolution({3, 3, 7, 5, 8, 24});
    return 0;
}
