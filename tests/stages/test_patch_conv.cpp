// Test and benchmark of patch_conv.h. ./test_patch_conv [bench]
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "csrc/cpu/patch_conv.h"
#include "tests/stages/numbers.h"

using namespace fastdc;

// z, gw and gmap of one term in plain double arithmetic, added to what is there.
template <class T>
static void plain(const PatchShape& s, const std::vector<T>& map, const std::vector<T>& w, const std::vector<T>& gz,
                  std::vector<double>& z, std::vector<double>& gw, std::vector<double>& gmap) {
    for (int64_t row = 0; row < s.rows(); ++row) {
        const int64_t image = row / s.positions(), y = row % s.positions() / s.out_width, x = row % s.out_width;
        for (int64_t o = 0; o < s.features; ++o)
            for (int64_t c = 0; c < s.channels; ++c)
                for (int64_t a = 0; a < s.kernel_height; ++a)
                    for (int64_t b = 0; b < s.kernel_width; ++b) {
                        const int64_t h = y * s.stride + a - s.padding, v = x * s.stride + b - s.padding;
                        if (h < 0 || h >= s.height || v < 0 || v >= s.width) continue;
                        const int64_t im = ((image * s.height + h) * s.width + v) * s.channels + c;
                        const int64_t iw = ((o * s.channels + c) * s.kernel_height + a) * s.kernel_width + b;
                        const double g = gz[row * s.features + o];
                        z[row * s.features + o] += static_cast<double>(map[im]) * w[iw];
                        gw[iw] += g * map[im];
                        gmap[im] += g * w[iw];
                    }
    }
}

template <class T>
static double worst_of[3] = {};

template <class T>
static void test(const PatchShape& s, double tolerance) {
    const int64_t maps = s.images * s.height * s.width * s.channels;
    const int64_t weights = s.features * s.channels * s.kernel_height * s.kernel_width;
    std::vector<T> map[2], w[2], gz[2], forward[2], backward[2];
    for (int i = 0; i < 2; ++i) {
        map[i] = random_values<T>(maps), w[i] = random_values<T>(weights);
        gz[i] = random_values<T>(s.rows() * s.features);
        forward[i] = std::vector<T>(patch_packed_size<T>(s.depth(), s.features), NAN);
        backward[i] = std::vector<T>(patch_packed_size<T>(s.features, s.depth()), NAN);
        pack_patch_weights(s, w[i].data(), forward[i].data());
        pack_patch_weights_backward(s, w[i].data(), backward[i].data());
    }
    const auto bias = random_values<T>(s.features);
    const auto check = [&](const char* name, int which, double error) {
        worst_of<T>[which] = std::fmax(worst_of<T>[which], error);
        if (!(error <= tolerance)) {
            std::printf("FAILED %s: %d images %dx%dx%d, %d features, kernel %dx%d stride %d padding %d: %g\n", name,
                        (int)s.images, (int)s.height, (int)s.width, (int)s.channels, (int)s.features,
                        (int)s.kernel_height, (int)s.kernel_width, (int)s.stride, (int)s.padding, error);
            std::exit(1);
        }
    };
    std::vector<T> patches(patches_size<T>(s), NAN);
    std::vector<double> z(gz[0].size()), gw(weights), gmap(maps), unused_z(z), unused_w(gw), unused_map(gmap);
    for (int terms = 1; terms <= 2; ++terms) {
        const bool first = terms == 1;
        // The second term of forward is another map with other weights, that of the way back another gz.
        plain(s, map[terms - 1], w[terms - 1], gz[terms - 1], z, first ? gw : unused_w, gmap);
        const PatchTerm<T> of_maps[] = {{map[0].data(), forward[0].data()}, {map[1].data(), forward[1].data()}};
        const PatchTerm<T> of_z[] = {{gz[0].data(), backward[0].data()}, {gz[1].data(), backward[1].data()}};
        std::vector<T> out(z.size(), NAN), pulled(maps, NAN);
        patch_forward<T>(s, of_maps, terms, nullptr, patches.data(), out.data());
        check("forward", 0, difference(out, z));
        patch_forward<T>(s, of_maps, terms, bias.data(), patches.data(), out.data());
        std::vector<double> shifted = z;
        for (size_t i = 0; i < z.size(); ++i) shifted[i] += bias[i % s.features];
        check("forward with bias", 0, difference(out, shifted));
        patch_input_gradient<T>(s, of_z, terms, patches.data(), pulled.data());
        check("input gradient", 1, difference(pulled, gmap));
    }
    std::vector<T> sums(s.depth() * s.features), gradient = random_values<T>(weights);
    const std::vector<T> start = gradient;
    for (int i = 0; i < 2; ++i) patch_weight_gradient<T>(s, map[0].data(), gz[0].data(), patches.data(), sums.data());
    unpack_patch_gradient(s, sums.data(), gradient.data());
    for (int64_t i = 0; i < weights; ++i) gw[i] = 2 * gw[i] + start[i];
    check("weight gradient", 2, difference(gradient, gw));
}

template <class T>
static void test_all(double tolerance) {
    const Kernel kernels[] = {{1, 1, 1, 0}, {3, 3, 1, 1}, {3, 3, 2, 1}, {5, 5, 1, 2}, {5, 5, 1, 0}, {7, 7, 2, 3},
                              {3, 3, 1, 4}, {1, 1, 2, 0}, {2, 2, 2, 0}, {4, 4, 2, 1}, {3, 3, 3, 2}};
    int count = 0;
    for (const Kernel& kernel : kernels)
        for (const int64_t channels : {1, 3, 8, 16})
            for (const auto& side : {std::pair<int64_t, int64_t>{7, 9}, {1, 1}, {2, 1}, {5, 2}, {8, 8}})
                for (const int64_t images : {1, 3}) {
                    if (side.first + 2 * kernel.padding < kernel.height) continue;
                    if (side.second + 2 * kernel.padding < kernel.width) continue;
                    const int64_t features = count % 3 ? 8 : 40;
                    test<T>(patch_shape(images, side.first, side.second, channels, features, kernel), tolerance);
                    ++count;
                }
    test<T>(patch_shape(5, 6, 7, 3, 24, {6, 7, 1, 0}), tolerance);      // a linear layer over a map
    test<T>(patch_shape(3, 16, 16, 96, 16, {5, 5, 1, 2}), tolerance);   // of several chunks
    test<T>(patch_shape(40, 1, 1, 2000, 48, {1, 1, 1, 0}), tolerance);  // a linear layer
    std::printf("%s: %d shapes, errors %.1e %.1e %.1e\n", sizeof(T) == 4 ? "float" : "double", count + 3,
                worst_of<T>[0], worst_of<T>[1], worst_of<T>[2]);
}

template <class Body>
static double best_seconds(const Body& body) {
    double best = 1e9;
    for (int i = 0; i < 20; ++i) {
        const auto start = std::chrono::steady_clock::now();
        body();
        best = std::fmin(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
}

static void bench(const char* name, const PatchShape& s) {
    using T = float;
    const auto map = random_values<T>(s.images * s.height * s.width * s.channels);
    const auto w = random_values<T>(s.features * s.channels * s.kernel_height * s.kernel_width);
    const auto gz = random_values<T>(s.rows() * s.features);
    std::vector<T> forward(patch_packed_size<T>(s.depth(), s.features)), patches(patches_size<T>(s));
    std::vector<T> backward(patch_packed_size<T>(s.features, s.depth())), z(gz.size()), gmap(map.size());
    std::vector<T> sums(s.depth() * s.features), gw(w.size());
    const double pack = best_seconds([&] { pack_patch_weights(s, w.data(), forward.data()); });
    const double pack_back = best_seconds([&] { pack_patch_weights_backward(s, w.data(), backward.data()); });
    const PatchTerm<T> in{map.data(), forward.data()}, out{gz.data(), backward.data()};
    const double there = best_seconds([&] { patch_forward<T>(s, &in, 1, nullptr, patches.data(), z.data()); });
    const double back = best_seconds([&] { patch_input_gradient<T>(s, &out, 1, patches.data(), gmap.data()); });
    const double weight =
        best_seconds([&] { patch_weight_gradient<T>(s, map.data(), gz.data(), patches.data(), sums.data()); });
    const double unpack = best_seconds([&] { unpack_patch_gradient(s, sums.data(), gw.data()); });
    const double flops = 2e-9 * static_cast<double>(s.rows() * s.used() * s.features);
    std::printf(
        "%-24s GFLOP/s: forward %5.1f  input gradient %5.1f  weight gradient %5.1f   us: pack %6.1f %6.1f  unpack "
        "%6.1f\n",
        name, flops / there, flops / back, flops / weight, 1e6 * pack, 1e6 * pack_back, 1e6 * unpack);
}

int main(int argc, char** argv) {
    test_all<float>(3e-6);
    test_all<double>(1e-12);
    if (argc > 1 && !std::strcmp(argv[1], "bench")) {
        bench("LeNet 1", patch_shape(16, 32, 32, 1, 8, {5, 5, 1, 0}));
        bench("LeNet 2", patch_shape(16, 14, 14, 8, 16, {5, 5, 1, 0}));
        bench("MLP 1", patch_shape(64, 28, 28, 1, 128, {28, 28, 1, 0}));
        bench("MLP 1, one image", patch_shape(1, 28, 28, 1, 128, {28, 28, 1, 0}));
        bench("AlexNet 1", patch_shape(4, 32, 32, 1, 128, {5, 5, 1, 2}));
        bench("AlexNet 2", patch_shape(4, 16, 16, 128, 192, {5, 5, 1, 2}));
        bench("VGG, 1 pixel", patch_shape(64, 1, 1, 512, 512, {3, 3, 1, 1}));
        bench("VGG, 3x3 pixels", patch_shape(16, 3, 3, 512, 512, {3, 3, 1, 1}));
    }
    return 0;
}
