// Test and benchmark of linear_loss.h. ./test_linear_loss [bench]
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "csrc/cpu/linear_loss.h"
#include "tests/stages/numbers.h"

using namespace fastdc;

template <class T>
static double dot(const std::vector<T>& a, const std::vector<T>& b) {
    double s = 0;
    for (size_t i = 0; i < a.size(); ++i) s += static_cast<double>(a[i]) * b[i];
    return s;
}

template <class T>
static double worst_error = 0;
static double worst_difference = 0;

static void check(const char* name, int64_t n, int64_t K, int64_t F, double error, double tolerance, double& worst) {
    worst = std::fmax(worst, error);
    if (!(error <= tolerance)) {
        std::printf("FAILED %s n %d K %d F %d: %g\n", name, (int)n, (int)K, (int)F, error);
        std::exit(1);
    }
}

// Everything against naive sums in double, in torch's order of the features.
template <class T>
static void test(int64_t n, int64_t K, int64_t C, int64_t H, int64_t W, double tolerance) {
    const int64_t P = H * W, F = C * P;
    const LinearShape shape = {n, F, K};
    auto f = random_values<T>(n * F), w = random_values<T>(K * F, 0.1), bias = random_values<T>(K);
    auto fdot = random_values<T>(n * F), wdot = random_values<T>(K * F, 0.1), biasdot = random_values<T>(K);
    std::vector<int64_t> labels(n);
    for (auto& l : labels) l = static_cast<int64_t>((uniform() + 1) / 2 * K) % K;
    const T scale = T(1) / T(n);
    auto torch = [&](int64_t j) { return (j % C) * P + j / C; };  // of the feature j in the engine's order

    std::vector<double> z(n * K), zdot(n * K), g(n * K), gdot(n * K), gf(n * F), gfdot(n * F), gw(K * F), gb(K);
    for (int64_t m = 0; m < n; ++m) {
        for (int64_t k = 0; k < K; ++k) {
            double s = bias[k], d = biasdot[k];
            for (int64_t j = 0; j < F; ++j) {
                s += (double)f[m * F + j] * w[k * F + torch(j)];
                d += (double)fdot[m * F + j] * w[k * F + torch(j)] + (double)f[m * F + j] * wdot[k * F + torch(j)];
            }
            z[m * K + k] = s, zdot[m * K + k] = d;
        }
    }
    std::vector<T> packed(K * F, NAN), packeddot(K * F, NAN), logits(n * K, NAN), logitsdot(n * K, NAN), gl(n * K, NAN),
        gldot(n * K, NAN);
    pack_linear_weights<T>(K, C, H, W, w.data(), packed.data());
    pack_linear_weights<T>(K, C, H, W, wdot.data(), packeddot.data());
    linear_forward<T>(shape, f.data(), packed.data(), bias.data(), logits.data());
    check("forward", n, K, F, difference(logits, z), tolerance, worst_error<T>);
    linear_forward_tangent<T>(shape, f.data(), fdot.data(), packed.data(), packeddot.data(), biasdot.data(),
                              logitsdot.data());
    check("forward tangent", n, K, F, difference(logitsdot, zdot), tolerance, worst_error<T>);

    // From here on from the computed values, or softmax would amplify their rounding.
    for (int64_t m = 0; m < n; ++m) {
        double top = -1e300, sum = 0, mean = 0;
        for (int64_t k = 0; k < K; ++k) top = logits[m * K + k] > top ? (double)logits[m * K + k] : top;
        for (int64_t k = 0; k < K; ++k) sum += std::exp(logits[m * K + k] - top);
        auto p = [&](int64_t k) { return std::exp(logits[m * K + k] - top) / sum; };
        for (int64_t k = 0; k < K; ++k) mean += p(k) * logitsdot[m * K + k];
        for (int64_t k = 0; k < K; ++k) {
            g[m * K + k] = scale * (p(k) - (k == labels[m]));
            gdot[m * K + k] = scale * p(k) * (logitsdot[m * K + k] - mean);
        }
    }
    loss_gradient<T>(n, K, logits.data(), labels.data(), scale, gl.data());
    check("softmax", n, K, F, difference(gl, g), tolerance, worst_error<T>);
    loss_gradient_tangent<T>(n, K, logits.data(), logitsdot.data(), scale, gldot.data());
    check("softmax tangent", n, K, F, difference(gldot, gdot), tolerance, worst_error<T>);

    auto gw0 = random_values<T>(K * F, 1e-3), gp = random_values<T>(K * F, 1e-3), gbias = random_values<T>(K);
    for (int64_t k = 0; k < K; ++k) gb[k] = gbias[k];
    for (int64_t k = 0; k < K; ++k)
        for (int64_t j = 0; j < F; ++j) gw[k * F + torch(j)] = (double)gp[k * F + j] + gw0[k * F + torch(j)];
    for (int64_t m = 0; m < n; ++m)
        for (int64_t k = 0; k < K; ++k) {
            gb[k] += gl[m * K + k];
            for (int64_t j = 0; j < F; ++j) {
                gf[m * F + j] += (double)gl[m * K + k] * w[k * F + torch(j)];
                gfdot[m * F + j] +=
                    (double)gldot[m * K + k] * w[k * F + torch(j)] + (double)gl[m * K + k] * wdot[k * F + torch(j)];
                gw[k * F + torch(j)] += (double)gl[m * K + k] * f[m * F + j];
            }
        }
    std::vector<T> gf_out(n * F, NAN), gfdot_out(n * F, NAN);
    linear_input_gradient<T>(shape, gl.data(), packed.data(), Write::kOver, gf_out.data());
    linear_weight_gradient<T>(shape, gl.data(), f.data(), gp.data(), gbias.data());
    auto gw_out = gw0;
    unpack_linear_gradient<T>(K, C, H, W, gp.data(), gw_out.data());
    check("gf", n, K, F, difference(gf_out, gf), tolerance, worst_error<T>);
    check("gweight", n, K, F, difference(gw_out, gw), tolerance, worst_error<T>);
    check("gbias", n, K, F, difference(gbias, gb), tolerance, worst_error<T>);
    linear_input_gradient<T>(shape, gldot.data(), packed.data(), Write::kOver, gfdot_out.data());
    linear_input_gradient<T>(shape, gl.data(), packeddot.data(), Write::kAdd, gfdot_out.data());
    check("gfdot", n, K, F, difference(gfdot_out, gfdot), tolerance, worst_error<T>);

    // Adjointness: <gl, f W^T> = <gl W, f> = <gl^T f, W>.
    std::vector<T> plain(n * K), gpure(K * F), unwanted(K);
    linear_forward<T>(shape, f.data(), packed.data(), nullptr, plain.data());
    linear_weight_gradient<T>(shape, gl.data(), f.data(), gpure.data(), unwanted.data());
    const double inner = dot(gl, plain), size = std::sqrt(dot(gl, gl) * dot(plain, plain)) + 1e-30;
    double unused = 0;
    check("adjoint f", n, K, F, std::fabs(inner - dot(gf_out, f)) / size, tolerance, unused);
    check("adjoint w", n, K, F, std::fabs(inner - dot(gpure, packed)) / size, tolerance, unused);
}

// scale * sum_m (log sum_k exp(logits[m, k]) - logits[m, labels[m]]).
static double loss_of(const std::vector<double>& logits, const std::vector<int64_t>& labels, int64_t K, double scale) {
    double loss = 0;
    for (size_t m = 0; m < labels.size(); ++m) {
        const double* row = &logits[m * K];
        double top = row[0], sum = 0;
        for (int64_t k = 1; k < K; ++k) top = row[k] > top ? row[k] : top;
        for (int64_t k = 0; k < K; ++k) sum += std::exp(row[k] - top);
        loss += scale * (std::log(sum) + top - row[labels[m]]);
    }
    return loss;
}

// The tangents of the whole chain against central differences, in double.
static void test_differences(int64_t n, int64_t K, int64_t F) {
    const LinearShape shape = {n, F, K};
    auto f = random_values<double>(n * F), w = random_values<double>(K * F, 0.1), b = random_values<double>(K);
    auto fd = random_values<double>(n * F), wd = random_values<double>(K * F, 0.1), bd = random_values<double>(K);
    std::vector<int64_t> labels(n);
    for (auto& l : labels) l = static_cast<int64_t>((uniform() + 1) / 2 * K) % K;
    const double scale = 1.0 / n, step = 1e-4;
    std::vector<double> gl[2], gf[2], gw[2];
    double loss[2];
    for (int side = 0; side < 2; ++side) {
        const double e = side ? step : -step;
        auto fe = f, we = w, be = b;
        for (size_t i = 0; i < f.size(); ++i) fe[i] += e * fd[i];
        for (size_t i = 0; i < w.size(); ++i) we[i] += e * wd[i];
        for (size_t i = 0; i < b.size(); ++i) be[i] += e * bd[i];
        std::vector<double> logits(n * K);
        gl[side].resize(n * K), gf[side].resize(n * F), gw[side].assign(K * F, 0);
        linear_forward(shape, fe.data(), we.data(), be.data(), logits.data());
        loss[side] = loss_of(logits, labels, K, scale);
        loss_gradient(n, K, logits.data(), labels.data(), scale, gl[side].data());
        std::vector<double> gb(K);
        linear_input_gradient(shape, gl[side].data(), we.data(), Write::kOver, gf[side].data());
        linear_weight_gradient(shape, gl[side].data(), fe.data(), gw[side].data(), gb.data());
    }
    std::vector<double> logits(n * K), logitsdot(n * K), g(n * K), gdot(n * K), unwanted(n * F), gfdot(n * F),
        gwdot(K * F), gb(K);
    linear_forward(shape, f.data(), w.data(), b.data(), logits.data());
    linear_forward_tangent(shape, f.data(), fd.data(), w.data(), wd.data(), bd.data(), logitsdot.data());
    loss_gradient(n, K, logits.data(), labels.data(), scale, g.data());
    loss_gradient_tangent(n, K, logits.data(), logitsdot.data(), scale, gdot.data());
    linear_input_gradient(shape, gdot.data(), w.data(), Write::kOver, gfdot.data());
    linear_input_gradient(shape, g.data(), wd.data(), Write::kAdd, gfdot.data());
    linear_weight_gradient(shape, gdot.data(), f.data(), gwdot.data(), gb.data());
    linear_weight_gradient(shape, g.data(), fd.data(), gwdot.data(), gb.data());
    auto quotient = [&](std::vector<double>* v) {
        std::vector<double> q(v[0].size());
        for (size_t i = 0; i < q.size(); ++i) q[i] = (v[1][i] - v[0][i]) / (2 * step);
        return q;
    };
    const double slope = dot(g, logitsdot);
    check("slope of the loss", n, K, F, std::fabs((loss[1] - loss[0]) / (2 * step) - slope) / (std::fabs(slope) + 0.1),
          1e-5, worst_difference);
    check("glogitsdot", n, K, F, difference(gdot, quotient(gl)), 1e-5, worst_difference);
    check("gfdot", n, K, F, difference(gfdot, quotient(gf)), 1e-5, worst_difference);
    check("gwdot", n, K, F, difference(gwdot, quotient(gw)), 1e-5, worst_difference);
}

// One image, groups of 1, 2 and 4 classes, and a class in none; in double, against the formula in the header.
template <class T>
static void test_distillation(double tolerance) {
    const int64_t classes[] = {1, 2, 4}, K = 8;
    const T t = 3, scale = T(0.25);
    auto logits = random_values<T>(K, 4), older = random_values<T>(K, 4), before = random_values<T>(K);
    std::vector<T> shares(K, NAN), gl = before;
    std::vector<double> expected(before.begin(), before.end());
    for (int64_t g = 0, first = 0; g < 3; first += classes[g++]) {
        double sum = 0, older_sum = 0;
        for (int64_t k = first; k < first + classes[g]; ++k) {
            sum += std::exp((double)logits[k] / t), older_sum += std::exp((double)older[k] / t);
        }
        for (int64_t k = first; k < first + classes[g]; ++k) {
            shares[k] = static_cast<T>(std::exp((double)older[k] / t) / older_sum);
            expected[k] += scale / t * (std::exp((double)logits[k] / t) / sum - shares[k]);
        }
    }
    add_distillation_gradient<T>(3, classes, t, logits.data(), shares.data(), scale, gl.data());
    check("distillation", 1, K, 0, difference(gl, expected), tolerance, worst_error<T>);
    if (gl[0] != before[0] || gl[7] != before[7]) std::printf("FAILED: a class that says nothing\n"), std::exit(1);
    logits[5] = NAN;
    add_distillation_gradient<T>(3, classes, t, logits.data(), shares.data(), scale, gl.data());
    if (!std::isnan(gl[3]) || std::isnan(gl[2])) std::printf("FAILED: a NaN is lost, or spreads\n"), std::exit(1);
}

static void test_specials() {
    const double nan = NAN;
    const int64_t label = 1;
    for (int at = 0; at < 3; ++at) {
        double z[3] = {1, 2, 3}, d[3] = {1, 2, 3}, g[3];
        z[at] = nan;
        loss_gradient(1, 3, z, &label, 1.0, g);
        if (!std::isnan(g[0] + g[1] + g[2])) std::printf("FAILED: a NaN is lost\n"), std::exit(1);
        loss_gradient_tangent(1, 3, z, d, 1.0, g);
        if (!std::isnan(g[0]) || !std::isnan(g[1]) || !std::isnan(g[2]))
            std::printf("FAILED: a NaN is lost\n"), std::exit(1);
    }
    float z[3] = {1e30f, -1e30f, 1e4f}, g[3];
    loss_gradient(1, 3, z, &label, 1.0f, g);
    if (g[0] != 1 || g[1] != -1 || g[2] != 0) std::printf("FAILED: large logits\n"), std::exit(1);
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

template <class T>
static void bench(const char* name) {
    const int64_t shapes[][3] = {{256, 10, 1152}, {256, 10, 2048}, {1, 10, 2048},
                                 {8, 10, 2048},   {64, 100, 2048}, {256, 2, 1152}};
    std::printf("%s (GFLOP/s; softmax in ns a logit)\n", name);
    for (auto& s : shapes) {
        const int64_t n = s[0], K = s[1], F = s[2];
        const LinearShape shape = {n, F, K};
        auto align = [](std::vector<T>& v) {
            return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(v.data()) + 63) / 64 * 64);
        };
        auto fv = random_values<T>(n * F + 64), wv = random_values<T>(K * F + 64), gfv = fv, gwv = wv;
        T *f = align(fv), *w = align(wv), *gf = align(gfv), *gw = align(gwv);
        auto bias = random_values<T>(K), gl = random_values<T>(n * K, 1e-3), gb = bias, logits = gl, ldot = gl,
             out = gl;
        std::vector<int64_t> labels(n);
        for (int64_t m = 0; m < n; ++m) labels[m] = m % K;
        const double flops = 2e-9 * n * K * F;
        const double a = best_seconds([&] { linear_forward<T>(shape, f, w, bias.data(), logits.data()); });
        const double b = best_seconds([&] { linear_input_gradient<T>(shape, gl.data(), w, Write::kOver, gf); });
        const double c = best_seconds([&] { linear_weight_gradient<T>(shape, gl.data(), f, gw, gb.data()); });
        const double d =
            best_seconds([&] { linear_forward_tangent<T>(shape, f, gf, w, gw, bias.data(), ldot.data()); });
        logits = random_values<T>(n * K, 4);
        const double x =
            best_seconds([&] { loss_gradient<T>(n, K, logits.data(), labels.data(), T(0.1), out.data()); });
        const double y =
            best_seconds([&] { loss_gradient_tangent<T>(n, K, logits.data(), ldot.data(), T(0.1), out.data()); });
        const double p = best_seconds([&] { pack_linear_weights<T>(K, F / 16, 4, 4, w, gw); });
        std::printf(
            "  n %3d K %3d F %4d: forward %6.1f  gf %6.1f  gw %6.1f  forward tangent %6.1f  softmax %.1f  "
            "tangent %.1f  pack %.1f us\n",
            (int)n, (int)K, (int)F, flops / a, flops / b, flops / c, 2 * flops / d, x / (n * K) * 1e9,
            y / (n * K) * 1e9, p * 1e6);
    }
}

int main(int argc, char**) {
    if (argc == 1) {
        const int64_t features[][3] = {{8, 1, 1}, {8, 3, 3}, {128, 3, 3}, {24, 2, 1}};
        const int64_t ns[] = {1, 3, 8, 70}, classes[] = {1, 2, 7, 10, 100};
        for (auto n : ns)
            for (auto K : classes)
                for (auto& s : features) {
                    if (K > 1) test<double>(n, K, s[0], s[1], s[2], 1e-12);
                    if (K > 1) test<float>(n, K, s[0], s[1], s[2], 2e-5);
                    if (K > 1) test_differences(n, K, s[0] * s[1] * s[2]);
                }
        test_distillation<double>(1e-12);
        test_distillation<float>(2e-5);
        test_specials();
        std::printf("double %.1e, float %.1e, central differences %.1e\n", worst_error<double>, worst_error<float>,
                    worst_difference);
        return 0;
    }
    bench<float>("float");
    bench<double>("double");
}
