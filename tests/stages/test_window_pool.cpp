// Checks csrc/cpu/window_pool.h: pooling and its way back against plain double arithmetic, ties and NaN among them.
//     g++ -std=c++17 -O2 -Wall -Wextra -Wno-psabi -mavx2 -mfma -I. tests/stages/test_window_pool.cpp
#include <cstdio>

#include "csrc/cpu/window_pool.h"
#include "numbers.h"

using namespace fastdc;
using std::vector;

static int failures = 0;

static void expect(bool good, const char* what, const WindowShape& s) {
    if (good) return;
    ++failures;
    std::printf("FAILED %s: %s %ldx%ldx%ld, windows %ldx%ld by %ldx%ld\n", what, name_of(kWindowKinds, s.windows.kind),
                s.height, s.width, s.channels, s.windows.rows.kernel, s.windows.columns.kernel, s.windows.rows.stride,
                s.windows.columns.stride);
}

// The share of each position in each window at a channel, [out, in].
template <class T>
static vector<double> shares(const WindowShape& s, const vector<T>& values, int64_t c) {
    const Windows& w = s.windows;
    const int64_t in = s.height * s.width, columns = s.out_width(), out = s.out_height() * columns;
    vector<double> result(out * in);
    for (int64_t o = 0; o < out; ++o) {
        const int64_t i = o / columns, j = o % columns;
        const auto inside = [](const Windows& of, const WindowSide& along, int64_t side, int64_t number, int64_t at) {
            if (of.kind == WindowKind::kAdaptive) {  // floor(number side / kernel) to ceil((number + 1) side / kernel)
                return at >= number * side / along.kernel && at * along.kernel < (number + 1) * side;
            }
            const int64_t begin = number * along.stride - along.padding;
            return at >= begin && at < begin + along.kernel;
        };
        int64_t winner = -1, count = 0;
        for (int64_t at = 0; at < in; ++at) {
            if (!inside(w, w.rows, s.height, i, at / s.width) || !inside(w, w.columns, s.width, j, at % s.width))
                continue;
            const T value = values[at * s.channels + c];
            if (winner < 0 || value > values[winner * s.channels + c] || value != value) winner = at;
            ++count;
            result[o * in + at] = 1;
        }
        if (w.kind == WindowKind::kAverage) count = w.rows.kernel * w.columns.kernel;
        for (int64_t at = 0; at < in; ++at) {
            double& share = result[o * in + at];
            share = w.kind == WindowKind::kMax ? at == winner : share / static_cast<double>(count);
        }
    }
    return result;
}

template <class T>
static void check(const WindowShape& s, double limit) {
    const int64_t in = s.height * s.width, out = s.out_height() * s.out_width();
    auto values = random_values<T>(s.in_size());
    for (auto& value : values) value = std::round(value * T(2));  // ties
    if (s.windows.kind == WindowKind::kMax) values[s.in_size() / 2] = static_cast<T>(NAN);
    const auto along = random_values<T>(s.in_size()), given = random_values<T>(s.out_size());
    vector<T> pooled(s.out_size()), spread(s.in_size(), T(7)), itself(s.out_size());
    pool_windows<T>(s, values.data(), along.data(), pooled.data());
    pool_windows<T>(s, values.data(), values.data(), itself.data());
    spread_windows<T>(s, values.data(), given.data(), spread.data());
    vector<double> right(s.out_size()), right_spread(s.in_size());
    for (int64_t c = 0; c < s.channels; ++c) {
        const auto share = shares(s, values, c);
        for (int64_t o = 0; o < out; ++o) {
            for (int64_t at = 0; at < in; ++at) {
                right[o * s.channels + c] += share[o * in + at] * along[at * s.channels + c];
                right_spread[at * s.channels + c] += share[o * in + at] * given[o * s.channels + c];
                const T value = values[at * s.channels + c], found = itself[o * s.channels + c];
                if (s.windows.kind == WindowKind::kMax && share[o * in + at] == 1)
                    expect(found == value || (found != found && value != value), "the largest", s);
            }
        }
    }
    expect(difference(pooled, right) <= limit, "pooled", s);
    expect(difference(spread, right_spread) <= limit, "spread", s);
}

int main() {
    const WindowSide sides[] = {{3, 2, 0}, {3, 2, 1}, {2, 2, 0}, {3, 1, 1}, {5, 3, 2}, {1, 2, 0}, {4, 1, 0}};
    for (const int64_t channels : {8, 24, 32}) {
        for (const auto& rows : sides) {
            for (const auto& columns : {rows, WindowSide{2, 1, 1}}) {
                for (const WindowKind kind : {WindowKind::kAverage, WindowKind::kMax, WindowKind::kAdaptive}) {
                    for (const int64_t width : {5, 8}) {
                        const WindowShape shape = {7, width, channels, {kind, rows, columns}};
                        check<double>(shape, 1e-14);
                        check<float>(shape, 1e-5);
                    }
                }
            }
        }
        check<double>({2, 1, channels, {WindowKind::kAdaptive, {7, 1, 0}, {3, 1, 0}}}, 1e-14);  // more than there is
    }
    std::printf("%d failures\n", failures);
    return failures != 0;
}
