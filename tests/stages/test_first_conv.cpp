// Test and benchmark of first_conv.h. ./test_first_conv [bench]
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "csrc/cpu/first_conv.h"
#include "tests/stages/numbers.h"

using namespace fastdc;

template <class T>
static double dot(const std::vector<T>& a, const std::vector<T>& b) {
    double s = 0;
    for (size_t i = 0; i < a.size(); ++i) s += static_cast<double>(a[i]) * b[i];
    return s;
}

// x [cin, H, W] with a frame of zeros.
template <class T>
static std::vector<T> framed(const std::vector<T>& x, int64_t cin, int64_t H, int64_t W) {
    std::vector<T> padded(first_padded_size(cin, H, W));
    for (int64_t i = 0; i < cin; ++i)
        for (int64_t h = 0; h < H; ++h)
            for (int64_t w = 0; w < W; ++w) padded[(i * (H + 2) + h + 1) * (W + 2) + w + 1] = x[(i * H + h) * W + w];
    return padded;
}

template <class T>
static double worst_forward = 0;
template <class T>
static double worst_weight = 0;
template <class T>
static double worst_input = 0;
template <class T>
static void test(int64_t cin, int64_t cout, int64_t H, int64_t W, double tolerance) {
    const FirstShape shape = first_shape(cin, cout, H, W);
    const int64_t pixels = H * W;
    auto x = random_values<T>(cin * pixels), w = random_values<T>(cout * cin * 9), bias = random_values<T>(cout);
    auto gz = random_values<T>(pixels * cout);
    std::vector<double> z(pixels * cout), gw(w.size()), gx(x.size());
    for (int64_t h = 0; h < H; ++h)
        for (int64_t v = 0; v < W; ++v)
            for (int64_t o = 0; o < cout; ++o) {
                double s = bias[o];
                const double g = gz[(h * W + v) * cout + o];
                for (int64_t i = 0; i < cin; ++i)
                    for (int64_t a = 0; a < 3; ++a)
                        for (int64_t b = 0; b < 3; ++b) {
                            const int64_t hh = h + a - 1, vv = v + b - 1;
                            if (hh < 0 || hh >= H || vv < 0 || vv >= W) continue;
                            const int64_t ix = (i * H + hh) * W + vv, iw = ((o * cin + i) * 3 + a) * 3 + b;
                            s += static_cast<double>(x[ix]) * w[iw];
                            gw[iw] += g * x[ix];
                            gx[ix] += g * w[iw];
                        }
                z[(h * W + v) * cout + o] = s;
            }
    const auto padded = framed(x, cin, H, W);
    std::vector<T> packed(first_packed_size(cin, cout)), scratch(first_row_size<T>(W));
    pack_first_weights(cin, cout, w.data(), packed.data());
    std::vector<T> out(z.size(), NAN);
    auto check = [&](const char* name, double error, double& worst) {
        worst = std::fmax(worst, error);
        if (!(error <= tolerance)) {
            std::printf("FAILED %s cin %d cout %d %dx%d: %g\n", name, (int)cin, (int)cout, (int)H, (int)W, error);
            std::exit(1);
        }
    };
    first_conv_forward<T>(shape, padded.data(), packed.data(), bias.data(), out.data());
    check("forward", difference(out, z), worst_forward<T>);
    std::vector<T> linear(z.size(), NAN);
    first_conv_forward<T>(shape, padded.data(), packed.data(), nullptr, linear.data());

    auto gpacked = random_values<T>(packed.size()), gw0 = random_values<T>(w.size());
    auto start = gpacked;
    first_conv_weight_gradient<T>(shape, padded.data(), gz.data(), gpacked.data());
    auto gw_out = gw0;
    unpack_first_weights(cin, cout, gpacked.data(), gw_out.data());
    auto gw_want = gw;
    for (int64_t o = 0; o < cout; ++o)
        for (int64_t t = 0; t < cin * 9; ++t)
            gw_want[o * cin * 9 + t] += (double)start[t * cout + o] + gw0[o * cin * 9 + t];
    check("weight gradient", difference(gw_out, gw_want), worst_weight<T>);
    std::vector<T> pure(packed.size());
    first_conv_weight_gradient<T>(shape, padded.data(), gz.data(), pure.data());

    std::vector<T> gx_out(x.size(), NAN);
    first_conv_input_gradient<T>(shape, gz.data(), packed.data(), Write::kOver, scratch.data(), gx_out.data());
    check("input gradient", difference(gx_out, gx), worst_input<T>);
    const double inner = dot(gz, linear), scale = std::sqrt(dot(gz, gz) * dot(linear, linear));
    double unused = 0;
    check("adjoint x", std::fabs(inner - dot(gx_out, x)) / scale, unused);
    check("adjoint w", std::fabs(inner - dot(pure, packed)) / scale, unused);
    first_conv_input_gradient<T>(shape, gz.data(), packed.data(), Write::kAdd, scratch.data(), gx_out.data());
    for (auto& e : gx) e *= 2;
    check("input gradient add", difference(gx_out, gx), worst_input<T>);
}

template <class F>
static double best_seconds(F f) {
    double best = 1e9;
    for (int outer = 0; outer < 40; ++outer) {
        auto t0 = std::chrono::steady_clock::now();
        int inner = 0;
        double t;
        do {
            f(), ++inner;
            t = std::chrono::duration<double>(std::chrono::steady_clock::now() - t0).count();
        } while (t < 2e-3);
        best = std::fmin(best, t / inner);
    }
    return best;
}

#if defined(__aarch64__)
#define FASTDC_OPAQUE(v) asm volatile("" : "+w"(v))
#else
#define FASTDC_OPAQUE(v) asm volatile("" : "+v"(v))
#endif

// The peak: independent sums of products in registers, of factors that the compiler may not assume to stay the same.
template <class T>
__attribute__((noinline)) static T peak_chains(int64_t steps, T seed) {
    Wide<T> a = Wide<T>{} + seed, b = Wide<T>{} + seed;
    Wide<T> s0 = {}, s1 = {}, s2 = {}, s3 = {}, s4 = {}, s5 = {}, s6 = {}, s7 = {}, s8 = {}, s9 = {};
    for (int64_t i = 0; i < steps; ++i) {
#define STEP(s) \
    s += a * b; \
    FASTDC_OPAQUE(a)
        STEP(s0);
        STEP(s1);
        STEP(s2);
        STEP(s3);
        STEP(s4);
        STEP(s5);
        STEP(s6);
        STEP(s7);
        STEP(s8);
        STEP(s9);
#undef STEP
    }
    return (s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7 + s8 + s9)[0];
}
template <class T>
static double peak() {
    volatile T seed = T(1e-3);
    constexpr int64_t steps = 20000;
    const double s = best_seconds([&] { seed = peak_chains<T>(steps, seed) * T(1e-9); });
    return 2.0 * 10 * steps * kWide<T> / s * 1e-9;
}

template <class T>
static void bench(const char* name) {
    const double top = peak<T>();
    std::printf("%s: peak %.1f GFLOP/s\n", name, top);
    const int64_t shapes[][4] = {{1, 128, 28, 28}, {1, 32, 28, 28}, {1, 64, 28, 28}, {3, 128, 32, 32},
                                 {3, 32, 32, 32},  {3, 64, 32, 32}, {3, 8, 32, 32},  {3, 24, 32, 32}};
    for (auto& s : shapes) {
        const int64_t cin = s[0], cout = s[1], H = s[2], W = s[3];
        const FirstShape shape = first_shape(cin, cout, H, W);
        auto align = [](std::vector<T>& v) {
            return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(v.data()) + 63) / 64 * 64);
        };
        auto x = random_values<T>(cin * H * W), bias = random_values<T>(cout);
        auto pv = random_values<T>(cin * 9 * cout + 64), zv = random_values<T>(H * W * cout + 64), gv = pv;
        T *packed = align(pv), *z = align(zv), *gp = align(gv);
        std::vector<T> scratch(first_row_size<T>(W)), gx(x.size());
        const auto padded = framed(x, cin, H, W);
        const double flops = 2.0 * 9 * cin * cout * H * W * 1e-9;
        const double a =
            flops / best_seconds([&] { first_conv_forward<T>(shape, padded.data(), packed, bias.data(), z); });
        for (int64_t i = 0; i < H * W * cout; ++i) z[i] = static_cast<T>(uniform());
        const double b = flops / best_seconds([&] { first_conv_weight_gradient<T>(shape, padded.data(), z, gp); });
        const double c = flops / best_seconds([&] {
                             first_conv_input_gradient<T>(shape, z, packed, Write::kOver, scratch.data(), gx.data());
                         });
        std::printf("  %dx%dx%d -> %3d: forward %6.1f (%2.0f%%)  weight %6.1f (%2.0f%%)  input %6.1f (%2.0f%%)\n",
                    (int)H, (int)W, (int)cin, (int)cout, a, 100 * a / top, b, 100 * b / top, c, 100 * c / top);
    }
}

int main(int argc, char**) {
    if (argc == 1) {
        const int64_t sizes[][2] = {{1, 1},   {2, 2},  {3, 3}, {5, 5},  {8, 8},
                                    {28, 28}, {7, 10}, {1, 8}, {10, 1}, {2, 33}};
        const int64_t cins[] = {1, 2, 3, 5}, couts[] = {8, 16, 24, 32, 40, 64, 128};
        for (auto& s : sizes)
            for (auto cin : cins)
                for (auto cout : couts) {
                    test<double>(cin, cout, s[0], s[1], 1e-12);
                    test<float>(cin, cout, s[0], s[1], 2e-5);
                }
        std::printf("double: forward %.1e weight %.1e input %.1e; float: forward %.1e weight %.1e input %.1e\n",
                    worst_forward<double>, worst_weight<double>, worst_input<double>, worst_forward<float>,
                    worst_weight<float>, worst_input<float>);
        return 0;
    }
    bench<float>("float");
    bench<double>("double");
}
