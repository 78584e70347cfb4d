// Test and benchmark of csrc/cpu/winograd.h (and gemm.h below it), one program per instruction set:
//   g++ -std=c++17 -O3 -ffp-contract=fast -fno-math-errno -Wall -Wextra -Wno-psabi <flags> test_winograd.cpp
//   ./a.out          all checks, then the benchmark;   ./a.out test   checks only;   ./a.out bench   benchmark only
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "csrc/cpu/winograd.h"

namespace {

using namespace fastdc;

int failures = 0;

uint64_t state = 88172645463325252ull;
double uniform() {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return static_cast<double>(state >> 11) / 4503599627370496.0 - 1.0;
}

// An exact-size heap buffer at a multiple of 64 bytes, so that the address sanitizer sees any overrun. Filled with NaN.
template <class T>
struct Buffer {
    T* data;
    int64_t size;
    explicit Buffer(int64_t n) : size(n) {
        if (posix_memalign(reinterpret_cast<void**>(&data), 64, sizeof(T) * static_cast<size_t>(n ? n : 1))) abort();
        for (int64_t i = 0; i < n; ++i) data[i] = static_cast<T>(NAN);
    }
    Buffer(const Buffer&) = delete;
    ~Buffer() { free(data); }
    Buffer& random() {
        for (int64_t i = 0; i < size; ++i) data[i] = static_cast<T>(uniform());
        return *this;
    }
    Buffer& fill(T value) {
        for (int64_t i = 0; i < size; ++i) data[i] = value;
        return *this;
    }
    operator T*() { return data; }
};

template <class A, class B>
double distance(const A* a, const B* b, int64_t n) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
        difference += d * d, norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
    }
    return std::sqrt(difference / norm);
}

void check(double error, double bound, const char* what, const WinogradShape& s) {
    if (error <= bound) return;  // also false for NaN
    ++failures;
    std::printf("FAILED %s: %g > %g (%ldx%ld of %ld x %ldx%ld, %ld -> %ld)\n", what, error, bound, long(s.kernel),
                long(s.kernel), long(s.images), long(s.height), long(s.width), long(s.in_channels),
                long(s.out_channels));
}

// Inner product over planes [36][rows, channels], leaving out the padding between them.
template <class T>
double planes_dot(const T* a, const T* b, int64_t rows, int64_t channels) {
    double sum = 0;
    for (int p = 0; p < 36; ++p) {
        const int64_t at = p * plane_size<T>(rows, channels);
        for (int64_t i = 0; i < rows; ++i) {
            const int64_t row = at + i * padded_stride<T>(channels);
            for (int64_t j = row; j < row + channels; ++j) sum += double(a[j]) * double(b[j]);
        }
    }
    return sum;
}
template <class T>
double dot(const T* a, const T* b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += double(a[i]) * double(b[i]);
    return sum;
}

// Direct convolution in double and its two gradients (each array may be null).
template <class T>
void direct(const WinogradShape& s, const T* x, const T* w, const T* bias, double* y, const T* gy, double* gx,
            double* gw) {
    const int64_t ci = s.in_channels, co = s.out_channels, k = s.kernel, taps = k * k;
    std::vector<double> wt(static_cast<size_t>(taps * ci * co)), gwt(wt.size());  // [taps][ci][co]
    for (int64_t o = 0; o < co; ++o) {
        for (int64_t i = 0; i < ci; ++i) {
            for (int64_t q = 0; q < taps; ++q) wt[size_t((q * ci + i) * co + o)] = double(w[(o * ci + i) * taps + q]);
        }
    }
    if (gx) std::memset(gx, 0, sizeof(double) * size_t(s.images * s.height * s.width * ci));
    for (int64_t n = 0; n < s.images; ++n) {
        for (int64_t r = 0; r < s.height; ++r) {
            for (int64_t c = 0; c < s.width; ++c) {
                const int64_t at = (n * s.height + r) * s.width + c;
                double* to = y + at * co;
                const T* g = gy + at * co;
                for (int64_t o = 0; o < co; ++o) to[o] = bias ? double(bias[o]) : 0;
                for (int64_t q = 0; q < taps; ++q) {
                    const int64_t rr = r + q / k - k / 2, cc = c + q % k - k / 2;
                    if (rr < 0 || rr >= s.height || cc < 0 || cc >= s.width) continue;
                    const int64_t in = ((n * s.height + rr) * s.width + cc) * ci;
                    for (int64_t i = 0; i < ci; ++i) {
                        const double* ww = &wt[size_t((q * ci + i) * co)];
                        double* gww = &gwt[size_t((q * ci + i) * co)];
                        const double value = double(x[in + i]);
                        double sum = 0;
                        for (int64_t o = 0; o < co; ++o) {
                            to[o] += value * ww[o];
                            gww[o] += value * double(g[o]);
                        }
                        for (int64_t o = 0; o < co; ++o) sum += double(g[o]) * ww[o];
                        gx[in + i] += sum;
                    }
                }
            }
        }
    }
    for (int64_t o = 0; o < co; ++o) {
        for (int64_t i = 0; i < ci; ++i) {
            for (int64_t q = 0; q < taps; ++q) gw[(o * ci + i) * taps + q] = gwt[size_t((q * ci + i) * co + o)];
        }
    }
}

struct Errors {
    double forward = 0, input = 0, weights = 0;

    void print(const char* of) const { std::printf("  %s: %.2e %.2e %.2e\n", of, forward, input, weights); }
};

template <class T>
void whole(const WinogradShape& s, double bound, Errors* worst) {
    const int64_t ci = s.in_channels, co = s.out_channels, tiles = s.tiles(), pixels = s.images * s.height * s.width,
                  taps = s.kernel * s.kernel;
    Buffer<T> x(pixels * ci), w(co * ci * taps), bias(co), gy(pixels * co), y(pixels * co), gx(pixels * ci),
        gw(co * ci * taps), gw0(co * ci * taps);
    Buffer<T> v(planes_size<T>(tiles, ci)), m(planes_size<T>(tiles, co)), gm(planes_size<T>(tiles, co)),
        gv(planes_size<T>(tiles, ci)), du(planes_size<T>(ci, co)), forward(packed_weights_size<T>(ci, co)),
        backward(packed_weights_size<T>(co, ci));
    Buffer<double> y0(pixels * co), gx0(pixels * ci), gwd(co * ci * taps);
    x.random(), w.random(), bias.random(), gy.random(), gw0.random();
    direct<T>(s, x, w, bias, y0, gy, gx0, gwd);

    transform_weights<T>(s.kernel, w, ci, co, forward, nullptr);
    transform_weights<T>(s.kernel, w, ci, co, nullptr, backward);
    transform_input<T>(s, x, v);
    multiply<T>(tiles, ci, co, v, forward, m);
    transform_output<T>(s, m, bias, y);
    const double forward_error = distance(y.data, y0.data, y.size);
    check(forward_error, bound, "forward", s);

    transform_output_adjoint<T>(s, gy, gm);
    multiply<T>(tiles, co, ci, gm, backward, gv);
    transform_input_adjoint<T>(s, gv, gx);
    const double input_error = distance(gx.data, gx0.data, gx.size);
    check(input_error, bound, "input gradient", s);

    du.fill(0);
    accumulate_weight_products<T>(tiles, ci, co, v, gm, du);
    std::memcpy(gw, gw0, sizeof(T) * size_t(gw.size));
    transform_weights_adjoint<T>(s.kernel, ci, co, du, gw);
    for (int64_t i = 0; i < gw.size; ++i) gw[i] -= gw0[i];
    const double weight_error = distance(gw.data, gwd.data, gw.size);
    check(weight_error, bound, "weight gradient", s);
    // A run of images and the same images among others agree to the bit.
    if (s.images > 1) {
        WinogradShape one = s;
        one.images = 1;
        const int64_t image = s.images - 1, offset = image * s.height * s.width;
        Buffer<T> v1(planes_size<T>(one.tiles(), ci)), m1(planes_size<T>(one.tiles(), co)), y1(s.height * s.width * co);
        transform_input<T>(one, x + offset * ci, v1);
        multiply<T>(one.tiles(), ci, co, v1, forward, m1);
        transform_output<T>(one, m1, bias, y1);
        if (std::memcmp(y1, y + offset * co, sizeof(T) * size_t(y1.size))) check(1, 0, "run of images", s);
    }
    if (worst) {
        worst->forward = std::fmax(worst->forward, forward_error);
        worst->input = std::fmax(worst->input, input_error);
        worst->weights = std::fmax(worst->weights, weight_error);
    }
}

void near(double left, double right, double scale, const char* what, const WinogradShape& s) {
    check(std::fabs(left - right) / (scale + 1e-300), 1e-13, what, s);
}

// <T x, y> = <x, T* y> for every transform and the products.
void adjoints(const WinogradShape& s) {
    using T = double;
    const int64_t ci = s.in_channels, co = s.out_channels, tiles = s.tiles(), pixels = s.images * s.height * s.width,
                  taps = s.kernel * s.kernel;
    Buffer<T> x(pixels * ci), gx(pixels * ci), y(pixels * co), gy(pixels * co), w(co * ci * taps), gw(co * ci * taps);
    Buffer<T> v(planes_size<T>(tiles, ci)), gv(planes_size<T>(tiles, ci)), v2(planes_size<T>(tiles, ci)),
        m(planes_size<T>(tiles, co)), gm(planes_size<T>(tiles, co)), m2(planes_size<T>(tiles, co)),
        du(planes_size<T>(ci, co)), du2(planes_size<T>(ci, co)), forward(packed_weights_size<T>(ci, co)),
        backward(packed_weights_size<T>(co, ci));
    x.random(), gv.random(), gy.random(), m.random(), w.random(), du.random();

    transform_input<T>(s, x, v);
    transform_input_adjoint<T>(s, gv, gx);
    double scale = std::sqrt(planes_dot<T>(v, v, tiles, ci) * planes_dot<T>(gv, gv, tiles, ci));
    near(planes_dot<T>(v, gv, tiles, ci), dot<T>(x, gx, x.size), scale, "input transform", s);

    transform_output<T>(s, m, nullptr, y);
    transform_output_adjoint<T>(s, gy, gm);
    scale = std::sqrt(dot<T>(y, y, y.size) * dot<T>(gy, gy, gy.size));
    near(dot<T>(y, gy, y.size), planes_dot<T>(m, gm, tiles, co), scale, "output transform", s);

    // Products: <v U, gm> = <v, gm U^T> = <U, v^T gm>, where U is read off as the product of single rows.
    transform_weights<T>(s.kernel, w, ci, co, forward, backward);
    multiply<T>(tiles, ci, co, v, forward, m2);
    multiply<T>(tiles, co, ci, gm, backward, v2);
    scale = std::sqrt(planes_dot<T>(m2, m2, tiles, co) * planes_dot<T>(gm, gm, tiles, co));
    const double left = planes_dot<T>(m2, gm, tiles, co);
    near(left, planes_dot<T>(v, v2, tiles, ci), scale, "products", s);
    du2.fill(0);
    accumulate_weight_products<T>(tiles, ci, co, v, gm, du2);
    Buffer<T> identity(planes_size<T>(ci, ci)), u(planes_size<T>(ci, co));
    identity.fill(0);
    for (int p = 0; p < 36; ++p) {
        for (int64_t i = 0; i < ci; ++i) identity[p * plane_size<T>(ci, ci) + i * padded_stride<T>(ci) + i] = 1;
    }
    u.fill(0);
    multiply<T>(ci, ci, co, identity, forward, u);
    near(left, planes_dot<T>(u, du2, ci, co), scale, "weight products", s);
    for (int p = 0; p < 36; ++p) multiply_plane<T>(p, tiles, ci, co, v, forward, m2, Write::kAdd);
    near(2 * left, planes_dot<T>(m2, gm, tiles, co), scale, "accumulated products", s);

    gw.fill(0);
    transform_weights_adjoint<T>(s.kernel, ci, co, du, gw);
    scale = std::sqrt(planes_dot<T>(u, u, ci, co) * planes_dot<T>(du, du, ci, co));
    near(planes_dot<T>(u, du, ci, co), dot<T>(w, gw, w.size), scale, "weight transform", s);
}

// multiply_packed alone, for sizes that convolutions of 8 channels and more do not reach: all tails, and depth blocks.
template <class T>
void products(int64_t rows, int64_t k, int64_t n, double bound) {
    const WinogradShape s = {3, 1, rows, 1, k, n};
    Buffer<T> a(rows * k), b(k * n), c(rows * n), at(k * rows), packed(k * padded_columns<T>(n)), c2(rows * n);
    a.random(), b.random(), packed.fill(0);
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t p = 0; p < k; ++p) at[p * rows + i] = a[i * k + p];
    }
    for (int64_t p = 0; p < k; ++p) {
        for (int64_t j = 0; j < n; ++j) {
            const int64_t panel = j / kPanel<T> * kPanel<T>;
            const int64_t width = padded_columns<T>(n - panel) < kPanel<T> ? padded_columns<T>(n - panel) : kPanel<T>;
            packed[panel * k + p * width + j - panel] = b[p * n + j];
        }
    }
    Buffer<double> expected(rows * n);
    expected.fill(0);
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t p = 0; p < k; ++p) {
            for (int64_t j = 0; j < n; ++j) expected[i * n + j] += double(a[i * k + p]) * double(b[p * n + j]);
        }
    }
    multiply_packed<T>(rows, k, n, {a, k}, packed, {c, n}, Write::kOver);
    check(distance(c.data, expected.data, c.size), bound, "multiply_packed", s);
    if (rows % 8 == 0) {
        c2.fill(0);
        multiply_transposed<T>(k, rows, n, {at, rows}, {b, n}, {c2, n});
        check(distance(c2.data, expected.data, c.size), bound, "multiply_transposed", s);
    }
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
template <class Call>
double best_of(Call call, double seconds = 0.4) {
    double best = 1e9;
    for (const double end = now() + seconds; now() < end;) {
        const double start = now();
        call();
        best = std::fmin(best, now() - start);
    }
    return best;
}

template <class T>
void bench(WinogradShape s) {
    const int64_t ci = s.in_channels, co = s.out_channels, tiles = s.tiles(), pixels = s.images * s.height * s.width,
                  taps = s.kernel * s.kernel;
    Buffer<T> x(pixels * ci), w(co * ci * taps), y(pixels * co), gw(co * ci * taps);
    Buffer<T> v(planes_size<T>(tiles, ci)), m(planes_size<T>(tiles, co)), du(planes_size<T>(ci, co)),
        forward(packed_weights_size<T>(ci, co)), backward(packed_weights_size<T>(co, ci));
    x.random(), w.random(), y.random(), v.random(), m.random(), du.fill(0), gw.fill(0);
    const double flops = 72.0 * double(tiles * ci * co);
    const double weights = best_of([&] { transform_weights<T>(s.kernel, w, ci, co, forward, backward); });
    const double weights_adjoint = best_of([&] { transform_weights_adjoint<T>(s.kernel, ci, co, du, gw); });
    const double input = best_of([&] { transform_input<T>(s, x, v); });
    const double product = best_of([&] { multiply<T>(tiles, ci, co, v, forward, m); });
    const double output = best_of([&] { transform_output<T>(s, m, x, y); });
    const double output_adjoint = best_of([&] { transform_output_adjoint<T>(s, y, m); });
    const double weight_product = best_of([&] { accumulate_weight_products<T>(tiles, ci, co, v, m, du); });
    const double input_adjoint = best_of([&] { transform_input_adjoint<T>(s, v, x); });
    const double ns = 1e9 / double(s.images);
    std::printf("%s, %ldx%ld of %ldx%ld x%ld, %ld->%ld channels: multiply %.1f GFLOP/s, weight products %.1f GFLOP/s\n",
                sizeof(T) == 4 ? "float" : "double", long(s.kernel), long(s.kernel), long(s.height), long(s.width),
                long(s.images), long(ci), long(co), flops / product * 1e-9, flops / weight_product * 1e-9);
    std::printf(
        "  ns per image: multiply %.0f, weight products %.0f, input %.0f, output %.0f, output adjoint %.0f, "
        "input adjoint %.0f (forward transforms / multiply %.0f%%, adjoint %.0f%%)\n",
        product * ns, weight_product * ns, input * ns, output * ns, output_adjoint * ns, input_adjoint * ns,
        100 * (input + output) / product, 100 * (input_adjoint + output_adjoint) / product);
    std::printf("  us per call: both weight packings %.1f, weight adjoint %.1f\n", weights * 1e6,
                weights_adjoint * 1e6);
}

}  // namespace

int main(int argc, char** argv) {
    const std::string mode = argc > 1 ? argv[1] : "";
    std::printf("registers of %d bytes\n", kRegisterBytes);
    if (mode != "bench") {
        const int64_t sizes[][2] = {{1, 1},   {2, 2},   {3, 3},   {4, 4},  {5, 5},  {7, 7}, {8, 8}, {14, 14},
                                    {16, 16}, {28, 28}, {32, 32}, {7, 10}, {10, 7}, {1, 9}, {6, 1}};
        const int64_t channels[][2] = {{8, 8},   {8, 24},  {24, 8},   {16, 8},   {24, 16},   {32, 32},
                                       {64, 24}, {16, 64}, {128, 32}, {64, 128}, {128, 128}, {136, 40}};
        for (const int64_t kernel : {3, 5}) {
            Errors double_errors, float_errors, typical;
            for (const auto& size : sizes) {
                for (const auto& channel : channels) {
                    const bool large = size[0] * size[1] > 200 && channel[0] * channel[1] > 2048;
                    const WinogradShape s = {kernel, large ? 1 : 3, size[0], size[1], channel[0], channel[1]};
                    if (size[0] >= 28 && channel[0] * channel[1] > 8192) continue;
                    if (kernel == 5 && large) continue;
                    adjoints(s);
                    whole<double>(s, 1e-12, &double_errors);
                    whole<float>(s, 4e-6, &float_errors);
                }
            }
            whole<float>({kernel, 8, 14, 14, 128, 128}, 4e-6, &typical);
            std::printf("%ldx%ld, relative 2-norm errors of forward, input gradient, weight gradient:\n", long(kernel),
                        long(kernel));
            double_errors.print("worst of double");
            float_errors.print("worst of float");
            typical.print("float, 8 x 14x14, 128 -> 128");
        }
        for (int64_t rows = 1; rows < 35; ++rows) {
            for (int64_t n = 8; n <= 72; n += 8) {
                products<float>(rows, 19, n, 1e-6);
                products<double>(rows, 19, n, 1e-14);
            }
        }
        for (const int64_t k : {1, 2, 127, 128, 129, 255, 256, 257, 600}) {
            products<float>(24, k, 40, 4e-6);
            products<double>(24, k, 40, 1e-14);
        }
        std::printf(failures ? "%d FAILED\n" : "all checks passed\n", failures);
    }
    if (mode != "test") {
        bench<float>({3, 8, 14, 14, 128, 128});
        bench<float>({3, 8, 7, 7, 128, 128});
        if (mode == "bench") {
            bench<float>({3, 8, 32, 32, 128, 128});
            bench<float>({3, 1, 7, 7, 128, 128});
            bench<float>({3, 8, 14, 14, 64, 64});
            bench<float>({3, 8, 28, 28, 32, 32});
            bench<float>({5, 2, 16, 16, 128, 192});
            bench<double>({3, 8, 14, 14, 128, 128});
        }
    }
    return failures != 0;
}
