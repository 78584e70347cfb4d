// Compiled once per instruction set, into namespace FASTDC_INSTRUCTION_SET: see instruction_set.h.
#include "cpu/elements.h"
#include "cpu/layerwise_distance.h"

namespace fastdc {
namespace {

using namespace elements;

struct VectorSums {
    Doubles dot, synthetic, real;

    FASTDC_INLINE void add(const Doubles& a, const Doubles& b) {
        dot = dot + a * b;
        synthetic = synthetic + a * a;
        real = real + b * b;
    }
};

// `ahead` is what will be written after this pass, or null.
template <class T>
inline RowSums sum_row(const T* a, const T* b, const T* ahead, int64_t n) {
    VectorSums even, odd;  // two chains of additions keep the adders busy
    int64_t i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
        if (ahead) __builtin_prefetch(ahead + i, 1);
        even.add(load(a + i), load(b + i));
        odd.add(load(a + i + kLanes), load(b + i + kLanes));
    }
    if (i + kLanes <= n) {
        even.add(load(a + i), load(b + i));
        i += kLanes;
    }
    if (i < n) odd.add(load_some(a + i, n - i), load_some(b + i, n - i));
    return {sum_of(even.dot + odd.dot), sum_of(even.synthetic + odd.synthetic), sum_of(even.real + odd.real)};
}

template <class T>
inline void write_row(const T* a, const T* b, T* cotangent, int64_t n, double along, double across) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        __builtin_prefetch(a + n + i);  // the next row, while this one is written: the two would take turns on memory
        __builtin_prefetch(b + n + i);
        store(cotangent + i, along * load(a + i) - across * load(b + i));
    }
    if (i < n) store_some(cotangent + i, along * load_some(a + i, n - i) - across * load_some(b + i, n - i), n - i);
}

template <class T>
double match_cosine(const void* synthetic, const void* real, void* result_rows, int64_t rows, int64_t row_length) {
    if (row_length == 0) return static_cast<double>(rows) * cosine_result({}).distance;
    auto a = static_cast<const T*>(synthetic), b = static_cast<const T*>(real);
    auto cotangent = static_cast<T*>(result_rows);
    double distance = 0;
    for (int64_t row = 0; row < rows; ++row, a += row_length, b += row_length, cotangent += row_length) {
        const RowResult result = cosine_result(sum_row(a, b, static_cast<const T*>(cotangent), row_length));
        write_row(a, b, cotangent, row_length, result.along, result.across);
        distance += result.distance;
    }
    return distance;
}

// Rows make no difference: one pass over all elements.
template <Metric metric, class T>
double match_elements(const void* synthetic, const void* real, void* result_rows, int64_t rows, int64_t row_length) {
    auto a = static_cast<const T*>(synthetic), b = static_cast<const T*>(real);
    auto cotangent = static_cast<T*>(result_rows);
    const int64_t n = rows * row_length;
    Doubles sum;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const auto result = element_result<metric>(load(a + i) - load(b + i));
        store(cotangent + i, result.cotangent);
        sum = sum + result.distance;
    }
    if (i < n) {
        const auto result = element_result<metric>(load_some(a + i, n - i) - load_some(b + i, n - i));
        store_some(cotangent + i, result.cotangent, n - i);
        sum = sum + result.distance;
    }
    return sum_of(sum);
}

template <class T>
RowSums sums(const void* synthetic, const void* real, int64_t count) {
    return sum_row(static_cast<const T*>(synthetic), static_cast<const T*>(real), static_cast<const T*>(nullptr),
                   count);
}

template <class T>
void write(const void* synthetic, const void* real, void* cotangent, int64_t count, double along, double across) {
    write_row(static_cast<const T*>(synthetic), static_cast<const T*>(real), static_cast<T*>(cotangent), count, along,
              across);
}

template <Metric metric, class T>
constexpr DistanceKernels::MatchRows match_of() {
    if constexpr (kIsByElement<metric>) {
        return match_elements<metric, T>;
    } else if constexpr (metric == Metric::layerwise_cosine) {
        return match_cosine<T>;
    } else {
        static_assert(metric == Metric::cosine, "a metric without code");
        return nullptr;
    }
}

template <class T, size_t... i>
constexpr DistanceKernels kernels_of(std::index_sequence<i...>) {
    return {{match_of<kMetrics[i].value, T>()...}, sums<T>, write<T>};
}

}  // namespace

namespace FASTDC_INSTRUCTION_SET {
const DistanceKernels distance_kernels[] = {kernels_of<float>(EachMetric{}), kernels_of<double>(EachMetric{}),
                                            kernels_of<Half>(EachMetric{}), kernels_of<BFloat16>(EachMetric{})};
}

}  // namespace fastdc
