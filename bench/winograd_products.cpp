// Measures the products of Winograd's planes, which are most of the native engine's work: GFLOP/s of `multiply` and of
// `accumulate_weight_products` on planes [36][rows, 128], with 1 thread and with 2, each on memory of its own.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include "csrc/cpu/winograd.h"

namespace {

constexpr int64_t kChannels = 128, kRows = 64, kTimes = 200, kRounds = 5;

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

enum class Products { kOfMaps, kOfWeights };

// The best of some rounds.
double rate(Products products) {
    using namespace fastdc;
    std::vector<float> v(planes_size<float>(kRows, kChannels), 0.5f), m(v.size(), 0.25f);
    std::vector<float> packed(packed_weights_size<float>(kChannels, kChannels), 0.125f);
    std::vector<float> du(planes_size<float>(kChannels, kChannels), 0.0f);
    double best = 0;
    for (int64_t round = 0; round < kRounds; ++round) {
        const double start = seconds();
        for (int64_t time = 0; time < kTimes; ++time) {
            if (products == Products::kOfWeights) {
                accumulate_weight_products<float>(kRows, kChannels, kChannels, v.data(), m.data(), du.data());
            } else {
                multiply<float>(kRows, kChannels, kChannels, v.data(), packed.data(), m.data());
            }
        }
        const double operations = 2.0 * kWinogradProducts * kTimes * kRows * kChannels * kChannels;
        best = std::max(best, operations / (seconds() - start));
    }
    return best / 1e9;
}

}  // namespace

int main() {
    for (const Products products : {Products::kOfMaps, Products::kOfWeights}) {
        double both[2];
        std::thread other([&] { both[0] = rate(products); });
        both[1] = rate(products);
        other.join();
        std::printf("%s %.1f %.1f\n", products == Products::kOfWeights ? "weights" : "maps", rate(products),
                    both[0] + both[1]);
    }
    return 0;
}
