// Random numbers for the tests of stages, and how far results are from right ones.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

static uint64_t state = 88172645463325252ull;
static double uniform() {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return static_cast<double>(state >> 11) / 9007199254740992.0 * 2 - 1;
}
template <class T>
static std::vector<T> random_values(int64_t size, double scale = 1) {
    std::vector<T> v(size);
    for (auto& e : v) e = static_cast<T>(uniform() * scale);
    return v;
}
template <class T>
static double difference(const std::vector<T>& a, const std::vector<double>& b) {
    // Comparisons and not std::fmax, at whose vectorisation GCC 12 for aarch64 crashes.
    double worst = 0, size = 1e-300;
    for (size_t i = 0; i < b.size(); ++i) {
        const double error = std::fabs(a[i] - b[i]), value = std::fabs(b[i]);
        if (!(error <= 1e300)) return 1e300;
        if (error > worst) worst = error;
        if (value > size) size = value;
    }
    return worst / size;
}
