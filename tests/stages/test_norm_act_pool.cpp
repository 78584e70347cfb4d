// Checks and times csrc/cpu/norm_act_pool.h.
//     g++ -std=c++17 -O3 -ffp-contract=fast -fno-math-errno -Wall -Wextra -Wno-psabi -mavx2 -mfma -Icsrc/cpu
//     test_norm_act_pool.cpp
// `a.out` checks, `a.out quick` leaves out the largest maps (for sanitizers), `a.out bench` times.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "csrc/cpu/norm_act_pool.h"

using namespace fastdc;
using std::vector;

static int failures = 0;
static double worst[8];

static std::string name(const BlockShape& s) {
    return std::to_string(s.height) + "x" + std::to_string(s.width) + "x" + std::to_string(s.channels) + " " +
           name_of(kNorms, s.norm) + " " + name_of(kActivations, s.activation) + " " + name_of(kPoolings, s.pooling);
}

// Exactly sized heap blocks without alignment beyond T's, that sanitizers see the ends of.
template <class T>
struct Block {
    T z, zdot, gamma, beta, gammadot, betadot, mean, var, gp, gpdot;
};
template <class T>
struct Data : Block<vector<T>> {
    NormInput<T> in() const { return {this->z.data(), this->gamma.data(), this->beta.data()}; }
    NormInput<T> dot() const { return {this->zdot.data(), this->gammadot.data(), this->betadot.data()}; }
};

template <class T>
Data<T> random_data(const BlockShape& s, unsigned seed) {
    std::mt19937_64 engine(seed);
    std::normal_distribution<double> normal;
    auto make = [&](int64_t size, double scale, double offset) {
        vector<T> v(size);
        for (auto& x : v) x = T(scale * normal(engine) + offset);
        return v;
    };
    Data<T> d;
    d.z = make(map_size(s), 1.5, 0.7);
    d.zdot = make(map_size(s), 1, 0.2);
    d.gamma = make(affine_size(s), 0.5, 1);
    d.beta = make(affine_size(s), 0.5, 0.1);
    d.gammadot = make(affine_size(s), 1, 0);
    d.betadot = make(affine_size(s), 1, 0);
    d.mean = make(s.channels, 0.5, 0.5);
    d.var = make(s.channels, 0.3, 0);
    for (auto& x : d.var) x = std::abs(x) + T(0.5);
    d.gp = make(pooled_size(s), 1, 0.1);
    d.gpdot = make(pooled_size(s), 1, 0.1);
    return d;
}

static double naive_act(const BlockShape& s, double y) {
    switch (s.activation) {
        case Activation::kRelu:
            return y < 0 ? 0 : y;
        case Activation::kLeakyRelu:
            return y > 0 ? y : s.slope * y;
        case Activation::kSigmoid:
            return 1 / (1 + std::exp(-y));
        case Activation::kTanh:
            return std::tanh(y);
        case Activation::kSwish:
            return y / (1 + std::exp(-y));
    }
    return 0;
}

// p and, in `kinks`, everything discrete: signs and winners.
static vector<double> naive_forward(const BlockShape& s, const Data<double>& d, vector<int>* kinks) {
    const int64_t H = s.height, W = s.width, C = s.channels;
    vector<double> a(map_size(s));
    if (kinks) kinks->clear();
    const int64_t size = s.norm == Norm::kGroup ? C / s.groups : s.norm == Norm::kLayer ? C : 1;
    for (int64_t c = 0; c < C; ++c) {
        double mean = 0, r = 1;
        if (s.norm == Norm::kBatch) {
            mean = d.mean[c];
            r = 1 / std::sqrt(d.var[c] + s.epsilon);
        } else if (s.norm != Norm::kNone) {
            const int64_t first = c / size * size;
            double var = 0;
            for (int64_t i = 0; i < H * W; ++i) {
                for (int64_t k = first; k < first + size; ++k) mean += d.z[i * C + k];
            }
            mean /= static_cast<double>(H * W * size);
            for (int64_t i = 0; i < H * W; ++i) {
                for (int64_t k = first; k < first + size; ++k) var += (d.z[i * C + k] - mean) * (d.z[i * C + k] - mean);
            }
            r = 1 / std::sqrt(var / static_cast<double>(H * W * size) + s.epsilon);
        }
        for (int64_t i = 0; i < H * W; ++i) {
            const int64_t e = s.norm == Norm::kLayer ? i * C + c : c;
            double y = (d.z[i * C + c] - mean) * r;
            if (s.norm != Norm::kNone) y = y * d.gamma[e] + d.beta[e];
            if (kinks && s.activation <= Activation::kLeakyRelu) kinks->push_back(y > 0);
            a[i * C + c] = naive_act(s, y);
        }
    }
    if (s.pooling == Pooling::kNone) return a;
    vector<double> p(pooled_size(s));
    for (int64_t i = 0; i < H / 2; ++i) {
        for (int64_t j = 0; j < W / 2; ++j) {
            for (int64_t c = 0; c < C; ++c) {
                const int64_t at[4] = {2 * i * W + 2 * j, 2 * i * W + 2 * j + 1, (2 * i + 1) * W + 2 * j,
                                       (2 * i + 1) * W + 2 * j + 1};
                double sum = 0, best = -INFINITY;
                int winner = 0;
                for (int k = 0; k < 4; ++k) {
                    const double x = a[at[k] * C + c];
                    sum += x;
                    if (x > best || x != x) {
                        best = x;
                        winner = k;
                    }
                }
                p[(i * (W / 2) + j) * C + c] = s.pooling == Pooling::kMax ? best : sum / 4;
                if (kinks && s.pooling == Pooling::kMax) kinks->push_back(winner);
            }
        }
    }
    return p;
}

template <class T>
struct Results {
    vector<T> p, stats, gz, ggamma, gbeta, pdot, tangent_stats, gz2, gzdot, ggammadot, gbetadot;
};

template <class T>
Results<T> compute(const BlockShape& s, const Data<T>& d) {
    Results<T> o;
    o.p.resize(pooled_size(s));
    o.stats.resize(stats_size(s));
    forward(s, d.in(), d.mean.data(), d.var.data(), o.p.data(), o.stats.data());
    o.gz.resize(map_size(s));
    o.ggamma.resize(affine_size(s));
    o.gbeta.resize(affine_size(s));
    vector<T> scratch(backward_scratch_size(s));
    backward(s, d.in(), o.stats.data(), d.gp.data(), o.gz.data(), o.ggamma.data(), o.gbeta.data(), scratch.data());
    o.pdot.resize(pooled_size(s));
    o.tangent_stats.resize(tangent_stats_size(s));
    forward_tangent(s, d.in(), d.dot(), o.stats.data(), o.pdot.data(), o.tangent_stats.data());
    o.gz2.resize(map_size(s));
    o.gzdot.resize(map_size(s));
    vector<T> more(backward_tangent_scratch_size(s));
    o.ggammadot.resize(affine_size(s));
    o.gbetadot.resize(affine_size(s));
    backward_tangent<T>(s, d.in(), d.dot(), {o.stats.data(), o.tangent_stats.data()}, {d.gp.data(), d.gpdot.data()},
                        {o.gz2.data(), o.gzdot.data()}, o.ggammadot.data(), o.gbetadot.data(), more.data());
    return o;
}

template <class A, class B>
double error(const vector<A>& got, const vector<B>& expected) {
    double difference = 0, scale = 1;
    for (size_t i = 0; i < expected.size(); ++i) {
        scale = std::max(scale, std::abs(static_cast<double>(expected[i])));
        const double x = std::abs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
        if (!(x <= difference)) difference = x;  // NaN stays
        if (x != x) return x;
    }
    return difference / scale;
}

static void expect(const BlockShape& s, const char* what, int slot, double value, double limit) {
    if (!(value <= worst[slot])) worst[slot] = value;
    if (value <= limit) return;
    ++failures;
    std::printf("FAILED %s: %s: %.3g > %.3g\n", name(s).c_str(), what, value, limit);
}

static double dot(const vector<double>& a, const vector<double>& b, double* size) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        sum += a[i] * b[i];
        *size += std::abs(a[i] * b[i]);
    }
    return sum;
}

static Data<double> moved(const Data<double>& d, double by) {
    Data<double> m = d;
    auto move = [by](vector<double>& x, const vector<double>& along) {
        for (size_t i = 0; i < x.size(); ++i) x[i] += by * along[i];
    };
    move(m.z, d.zdot);
    move(m.gamma, d.gammadot);
    move(m.beta, d.betadot);
    move(m.gp, d.gpdot);
    return m;
}

static vector<double> difference(const vector<double> (&f)[4], double h) {
    vector<double> result(f[0].size());
    for (size_t i = 0; i < result.size(); ++i) {
        result[i] = (8 * (f[2][i] - f[1][i]) - (f[3][i] - f[0][i])) / (12 * h);
    }
    return result;
}

static int skipped = 0;

static void check(const BlockShape& s, unsigned seed) {
    const double h = 1e-5;
    Data<double> d;
    bool smooth = false;
    for (int attempt = 0; attempt < 40 && !smooth; ++attempt) {
        d = random_data<double>(s, seed + 1000 * attempt);
        vector<int> low, high;
        naive_forward(s, moved(d, -2 * h), &low);
        naive_forward(s, moved(d, 2 * h), &high);
        smooth = low == high;
    }
    const auto o = compute(s, d);
    expect(s, "forward", 0, error(o.p, naive_forward(s, d, nullptr)), 1e-12);
    double size = 1;
    const double left = dot(d.gp, o.pdot, &size);
    const double right = dot(o.gz, d.zdot, &size) + dot(o.ggamma, d.gammadot, &size) + dot(o.gbeta, d.betadot, &size);
    expect(s, "inner product", 1, std::abs(left - right) / size, 1e-13);
    expect(s, "gz of backward_tangent", 2, error(o.gz2, o.gz), 1e-13);
    if (smooth) {
        vector<double> p[4], g[4], ggamma[4], gbeta[4];
        const double at[4] = {-2 * h, -h, h, 2 * h};
        for (int i = 0; i < 4; ++i) {
            auto r = compute(s, moved(d, at[i]));
            p[i] = r.p;
            g[i] = r.gz;
            ggamma[i] = r.ggamma;
            gbeta[i] = r.gbeta;
        }
        expect(s, "forward_tangent", 3, error(o.pdot, difference(p, h)), 1e-7);
        expect(s, "backward_tangent", 4, error(o.gzdot, difference(g, h)), 1e-6);
        expect(s, "tangent of ggamma", 4, error(o.ggammadot, difference(ggamma, h)), 1e-6);
        expect(s, "tangent of gbeta", 4, error(o.gbetadot, difference(gbeta, h)), 1e-6);
    } else {
        ++skipped;
    }
    {  // In place, adding, and without parameter gradients.
        auto z = d.z;
        auto ggamma = o.ggamma, gbeta = o.gbeta;
        vector<double> scratch(backward_scratch_size(s));
        backward<double>(s, {z.data(), d.gamma.data(), d.beta.data()}, o.stats.data(), d.gp.data(), z.data(),
                         ggamma.data(), gbeta.data(), scratch.data());
        for (size_t i = 0; i < ggamma.size(); ++i) ggamma[i] -= o.ggamma[i], gbeta[i] -= o.gbeta[i];
        expect(s, "added ggamma", 2, error(ggamma, o.ggamma), 1e-13);
        expect(s, "added gbeta", 2, error(gbeta, o.gbeta), 1e-13);
        expect(s, "in place", 2, error(z, o.gz), 0);
        backward<double>(s, d.in(), o.stats.data(), d.gp.data(), z.data(), nullptr, nullptr, scratch.data());
        expect(s, "no parameter gradients", 2, error(z, o.gz), 0);
        z = d.z;
        auto zdot = d.zdot;
        vector<double> more(backward_tangent_scratch_size(s));
        backward_tangent<double>(s, {z.data(), d.gamma.data(), d.beta.data()},
                                 {zdot.data(), d.gammadot.data(), d.betadot.data()},
                                 {o.stats.data(), o.tangent_stats.data()}, {d.gp.data(), d.gpdot.data()},
                                 {z.data(), zdot.data()}, nullptr, nullptr, more.data());
        expect(s, "tangent in place", 2, error(z, o.gz2), 0);
        expect(s, "tangent in place", 2, error(zdot, o.gzdot), 0);
    }
}

// Float against double on the same (float) inputs; kinks decided differently are left out by their tiny share.
static void check_float(const BlockShape& s, double* errors) {
    const auto d = random_data<float>(s, 5);
    auto widen = [](const vector<float>& v) { return vector<double>(v.begin(), v.end()); };
    const Data<double> e{{widen(d.z), widen(d.zdot), widen(d.gamma), widen(d.beta), widen(d.gammadot), widen(d.betadot),
                          widen(d.mean), widen(d.var), widen(d.gp), widen(d.gpdot)}};
    const auto a = compute(s, d);
    const auto b = compute(s, e);
    auto typical = [](const vector<float>& got, const vector<double>& expected) {  // root mean square, relative
        double x = 0, y = 1e-300;
        for (size_t i = 0; i < got.size(); ++i) {
            x += (got[i] - expected[i]) * (got[i] - expected[i]);
            y += expected[i] * expected[i];
        }
        return std::sqrt(x / y);
    };
    const double found[] = {typical(a.p, b.p),         typical(a.gz, b.gz),     typical(a.ggamma, b.ggamma),
                            typical(a.gbeta, b.gbeta), typical(a.pdot, b.pdot), typical(a.gzdot, b.gzdot)};
    for (int i = 0; i < 6; ++i) errors[i] = std::max(errors[i], found[i]);
}

template <class T>
void check_nan(const BlockShape& s) {
    auto d = random_data<T>(s, 3);
    const int64_t C = s.channels, row = s.height > 2 ? 2 : 0, column = s.width > 1 ? 1 : 0;
    d.z[(row * s.width + column) * C + 3] = std::numeric_limits<T>::quiet_NaN();
    const auto o = compute(s, d);
    if (o.p.empty()) return;
    const bool pooled = s.pooling != Pooling::kNone;
    const int64_t i = pooled ? row / 2 : row, j = pooled ? column / 2 : column;
    if (i >= pooled_height(s) || j >= pooled_width(s)) return;
    const T at = o.p[(i * pooled_width(s) + j) * C + 3];
    int64_t count = 0, inside = 0;
    for (size_t k = 0; k < o.p.size(); ++k) {
        if (o.p[k] != o.p[k]) ++count, inside += k % C == 3;
    }
    const int64_t outputs = static_cast<int64_t>(o.p.size());
    const int64_t expected = s.norm == Norm::kInstance ? outputs / C
                             : s.norm == Norm::kGroup  ? outputs / s.groups
                             : s.norm == Norm::kLayer  ? outputs
                                                       : 1;
    if (at == at || count != expected) {
        ++failures;
        std::printf("FAILED %s: NaN at its output: %d, NaNs %ld of %ld\n", name(s).c_str(), at != at, count, expected);
    }
}

static void check_orders() {
    constexpr int64_t C = 16, P = 15;
    vector<double> from(C * P), to(C * P), back(C * P, 1);
    for (int64_t i = 0; i < C * P; ++i) from[i] = static_cast<double>(i);
    to_channels_last(from.data(), C, P, to.data());
    add_from_channels_last(to.data(), C, P, back.data());
    for (int64_t c = 0; c < C; ++c) {
        for (int64_t at = 0; at < P; ++at) {
            failures += to[at * C + c] != from[c * P + at];
            failures += back[c * P + at] != from[c * P + at] + 1;
        }
    }
}

template <class T>
void check_exponential() {
    double largest = 0;
    std::mt19937_64 engine(1);
    std::uniform_real_distribution<double> everywhere(-Exponential<T>::kLimit, Exponential<T>::kLimit), near(-1, 1);
    for (int i = 0; i < 2000000; ++i) {
        const T x = T(i % 2 ? near(engine) : everywhere(engine));
        const Lanes<T> y = exponential<T>(fill<Lanes<T>>(x));
        const long double exact = std::exp(static_cast<long double>(x));
        largest = std::max(largest, static_cast<double>(std::abs((y[0] - exact) / exact)));
    }
    std::printf("exponential %s: relative error %.3g = %.2f epsilon\n", sizeof(T) == 4 ? "float" : "double", largest,
                largest / static_cast<double>(std::numeric_limits<T>::epsilon()));
    failures += !(largest <= 2 * static_cast<double>(std::numeric_limits<T>::epsilon()) * 1.0) ||
                (sizeof(T) == 8 && largest > 1e-15);
    const T extremes[] = {T(0),    T(88),   T(-88),  T(110),   T(-110),     T(709),
                          T(-709), T(-750), T(1e30), T(-1e30), T(INFINITY), T(-INFINITY)};
    for (T y : extremes) {
        const T a = Activated<T, Lanes<T>, Activation::kSigmoid>(fill<Lanes<T>>(y), T(0)).value()[0];
        const Activated<T, Lanes<T>, Activation::kSwish> swish(fill<Lanes<T>>(y), T(0));
        const double limit = 1e-15 + (sizeof(T) == 4 ? 3e-7 : 0), exact = 1 / (1 + std::exp(-static_cast<double>(y)));
        bool good = std::abs(static_cast<double>(a) - exact) <= limit;
        if (std::isfinite(y)) {
            good &= std::abs(static_cast<double>(swish.value()[0]) - y * exact) <=
                    limit * std::max(1.0, std::abs(y * exact));
            const double slope = exact * (1 + y * (1 - exact));
            good &= std::abs(swish.times_slope(fill<Lanes<T>>(T(1)))[0] - slope) <= limit;
        }
        if (!good) {
            ++failures;
            std::printf("FAILED sigmoid or swish at %g: %g %g %g\n", static_cast<double>(y), static_cast<double>(a),
                        static_cast<double>(swish.value()[0]),
                        static_cast<double>(swish.times_slope(fill<Lanes<T>>(T(1)))[0]));
        }
    }
}

// Max pooling on few distinct values, NaN among them: the gradient goes where torch's scan stops.
static void check_ties() {
    for (Activation activation :
         {Activation::kRelu, Activation::kLeakyRelu, Activation::kSigmoid, Activation::kTanh, Activation::kSwish}) {
        BlockShape s{8, 8, 32, 1, Norm::kNone, activation, Pooling::kMax};
        auto d = random_data<double>(s, 9);
        std::mt19937_64 engine(2);
        for (auto& x : d.z) x = engine() % 9 == 0 ? NAN : static_cast<double>(engine() % 3 + 1);
        for (auto& x : d.gp) x = 1;
        const auto o = compute(s, d);
        for (int64_t i = 0; i < 4; ++i) {
            for (int64_t j = 0; j < 4; ++j) {
                for (int64_t c = 0; c < 32; ++c) {
                    const int64_t at[4] = {16 * i + 2 * j, 16 * i + 2 * j + 1, 16 * i + 8 + 2 * j,
                                           16 * i + 8 + 2 * j + 1};
                    double best = -INFINITY;
                    int winner = 0;
                    for (int k = 0; k < 4; ++k) {
                        const double x = d.z[at[k] * 32 + c];
                        if (x > best || x != x) best = x, winner = k;
                    }
                    for (int k = 0; k < 4; ++k) {
                        if ((o.gz[at[k] * 32 + c] != 0) != (k == winner)) {
                            ++failures;
                            std::printf("FAILED tie %s\n", name(s).c_str());
                            return;
                        }
                    }
                }
            }
        }
    }
    // The derivative of relu at 0 is 0.
    BlockShape s{2, 2, 8, 1, Norm::kNone, Activation::kRelu, Pooling::kNone};
    auto d = random_data<double>(s, 9);
    for (auto& x : d.z) x = 0;
    for (double g : compute(s, d).gz) failures += g != 0;
}

template <class F>
double best_ns(const F& f) {
    double best = 1e30;
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 4000; ++i) {
        const auto a = std::chrono::steady_clock::now();
        f();
        const auto b = std::chrono::steady_clock::now();
        best = std::min(best, std::chrono::duration<double, std::nano>(b - a).count());
        if (std::chrono::duration<double>(b - start).count() > 0.15) break;
    }
    return best;
}

template <class T>
void bench(BlockShape s) {
    const auto d = random_data<T>(s, 1);
    auto o = compute(s, d);
    vector<T> scratch(backward_tangent_scratch_size(s));
    const double n = static_cast<double>(map_size(s));
    const double a = best_ns([&] { forward(s, d.in(), d.mean.data(), d.var.data(), o.p.data(), o.stats.data()); });
    const double m = best_ns([&] {
        choose_vector<T>(s.channels, [&](auto v) {
            fill_stats<T, typename decltype(v)::type>(s, d.z.data(), d.gamma.data(), d.beta.data(), d.mean.data(),
                                                      d.var.data(), o.stats.data());
        });
    });
    const double b = best_ns([&] {
        backward(s, d.in(), o.stats.data(), d.gp.data(), o.gz.data(), o.ggamma.data(), o.gbeta.data(), scratch.data());
    });
    const double t =
        best_ns([&] { forward_tangent(s, d.in(), d.dot(), o.stats.data(), o.pdot.data(), o.tangent_stats.data()); });
    vector<T> z = d.z, zdot = d.zdot;
    double v = 1e30, w = 1e30;  // in place
    for (int i = 0; i < 300; ++i) {
        z = d.z;
        zdot = d.zdot;
        const auto t0 = std::chrono::steady_clock::now();
        backward_tangent<T>(s, {z.data(), d.gamma.data(), d.beta.data()},
                            {zdot.data(), d.gammadot.data(), d.betadot.data()},
                            {o.stats.data(), o.tangent_stats.data()}, {d.gp.data(), d.gpdot.data()},
                            {z.data(), zdot.data()}, nullptr, nullptr, scratch.data());
        const auto t1 = std::chrono::steady_clock::now();
        z = d.z;
        const auto t2 = std::chrono::steady_clock::now();
        backward<T>(s, {z.data(), d.gamma.data(), d.beta.data()}, o.stats.data(), d.gp.data(), z.data(),
                    o.ggamma.data(), o.gbeta.data(), scratch.data());
        const auto t3 = std::chrono::steady_clock::now();
        v = std::min(v, std::chrono::duration<double, std::nano>(t1 - t0).count());
        w = std::min(w, std::chrono::duration<double, std::nano>(t3 - t2).count());
    }
    const double u = best_ns([&] {
        backward_tangent<T>(s, d.in(), d.dot(), {o.stats.data(), o.tangent_stats.data()}, {d.gp.data(), d.gpdot.data()},
                            {o.gz2.data(), o.gzdot.data()}, nullptr, nullptr, scratch.data());
    });
    std::printf(
        "%-36s %-6s ns/element: forward %.3f (stats %.3f) backward %.3f (in place %.3f) tangent %.3f "
        "backward tangent %.3f (in place %.3f)  us: %.1f %.1f %.1f %.1f\n",
        name(s).c_str(), sizeof(T) == 4 ? "float" : "double", a / n, m / n, b / n, w / n, t / n, u / n, v / n, a / 1e3,
        b / 1e3, t / 1e3, u / 1e3);
}

int main(int argc, char** argv) {
    const std::string mode = argc > 1 ? argv[1] : "";
    std::printf("register %d bytes\n", kRegisterBytes);
    if (mode == "bench") {
        for (int64_t side : {28, 14, 7}) {
            bench<float>({side, side, 128, 4, Norm::kInstance, Activation::kRelu, Pooling::kAverage});
        }
        bench<double>({28, 28, 128, 4, Norm::kInstance, Activation::kRelu, Pooling::kAverage});
        if (argc > 2) return 0;
        for (Norm norm : {Norm::kGroup, Norm::kLayer, Norm::kBatch, Norm::kNone}) {
            bench<float>({28, 28, 128, 4, norm, Activation::kRelu, Pooling::kAverage});
        }
        for (Activation a : {Activation::kLeakyRelu, Activation::kSigmoid, Activation::kSwish}) {
            bench<float>({28, 28, 128, 4, Norm::kInstance, a, Pooling::kAverage});
        }
        for (Activation a : {Activation::kRelu, Activation::kSigmoid, Activation::kSwish}) {
            bench<float>({28, 28, 128, 4, Norm::kInstance, a, Pooling::kMax});
        }
        bench<float>({28, 28, 128, 4, Norm::kInstance, Activation::kRelu, Pooling::kNone});
        bench<double>({28, 28, 128, 4, Norm::kInstance, Activation::kSwish, Pooling::kAverage});
        bench<float>({28, 28, 24, 4, Norm::kInstance, Activation::kRelu, Pooling::kAverage});
        return 0;
    }
    const bool quick = mode == "quick";
    check_exponential<float>();
    check_exponential<double>();
    check_ties();
    check_orders();
    double errors[2][6] = {};
    const int64_t sides[][2] = {{1, 1},  {2, 2}, {3, 3}, {5, 5},   {7, 7},  {8, 8},
                                {7, 10}, {1, 3}, {2, 1}, {14, 14}, {28, 28}};
    for (auto& side : sides) {
        for (int64_t channels : {8, 24, 32, 128}) {
            if (quick && side[0] * channels > 14 * 32) continue;
            for (int norm = 0; norm < 5; ++norm) {
                for (int activation = 0; activation < 5; ++activation) {
                    for (int pooling = 0; pooling < 3; ++pooling) {
                        BlockShape s{side[0],
                                     side[1],
                                     channels,
                                     4,
                                     static_cast<Norm>(norm),
                                     static_cast<Activation>(activation),
                                     static_cast<Pooling>(pooling),
                                     1e-3,
                                     0.2};
                        check(s, 17);
                        check_nan<float>(s);
                        check_nan<double>(s);
                        const bool kinked = activation < 2 || pooling == 1;
                        if (side[0] >= 7) check_float(s, errors[kinked]);
                    }
                }
            }
        }
    }
    std::printf("forward %.2g, inner product %.2g, variants %.2g, forward_tangent %.2g, backward_tangent %.2g\n",
                worst[0], worst[1], worst[2], worst[3], worst[4]);
    for (int kinked = 0; kinked < 2; ++kinked) {
        const double* e = errors[kinked];
        std::printf(
            "float against double, %s, largest relative rms: p %.2g gz %.2g ggamma %.2g gbeta %.2g pdot %.2g gzdot "
            "%.2g\n",
            kinked ? "kinked" : "smooth", e[0], e[1], e[2], e[3], e[4], e[5]);
    }
    std::printf("%d without finite differences (kinks too close), %d failures\n", skipped, failures);
    return failures != 0;
}
