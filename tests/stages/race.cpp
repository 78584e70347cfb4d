// Every job of the compiled CPU code with several threads, from two callers at once, and ended before its end: run
// under ThreadSanitizer.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <thread>
#include <vector>

#include "csrc/cpu/convnet.h"
#include "csrc/cpu/instruction_set.h"
#include "csrc/cpu/layerwise_distance.h"
#include "csrc/cpu/stopping.h"
#include "csrc/cpu/threads.h"

namespace {

using namespace fastdc;

constexpr int64_t kClasses = 3, kEach = 17, kSide = 8, kFeatures = 8, kImage = kSide * kSide;

std::vector<float> numbers(int64_t count, double step) {
    std::vector<float> result(static_cast<size_t>(count));
    for (size_t i = 0; i < result.size(); ++i)
        result[i] = static_cast<float>(0.3 * std::sin(step * static_cast<double>(i)));
    return result;
}

ConvNetPlan two_blocks(bool bfloat16) {
    ConvNetPlan plan{};
    plan.bfloat16 = bfloat16;
    plan.channels = 1;
    plan.height = plan.width = kSide;
    plan.depth = 2;
    plan.classes = kClasses;
    int64_t end = 0;
    const auto take = [&](int64_t size) { return (end += size) - size; };
    for (int64_t l = 0; l < plan.depth; ++l) {
        plan.features[l] = kFeatures;
        plan.kernel_height[l] = plan.kernel_width[l] = 3;
        plan.stride[l] = plan.padding[l] = 1;
        plan.groups[l] = 1;
        plan.epsilon[l] = 1e-5;
        plan.weight[l] = take(kFeatures * (l ? kFeatures : 1) * 9);
        plan.bias[l] = take(kFeatures);
        plan.gamma[l] = take(kFeatures);
        plan.beta[l] = take(kFeatures);
    }
    plan.windows[0] = {WindowKind::kMax, {3, 1, 1}, {3, 1, 1}};
    plan.windows[1] = {WindowKind::kAdaptive, {2, 1, 0}, {2, 1, 0}};  // which leave maps as large as they are
    plan.linear_weight = take(kClasses * kFeatures * 4);
    plan.linear_bias = take(kClasses);
    plan.parameters = end;
    return plan;
}

// The same with a batch norm in the last block, whose statistics are [2, features].
ConvNetPlan normed_by_batch(ConvNetPlan plan, float* statistics) {
    plan.norm[1] = static_cast<int>(Norm::kBatch);
    plan.mean[1] = statistics;
    plan.variance[1] = statistics + kFeatures;
    plan.momentum[1] = 0.1;
    return plan;
}

// All jobs, one after another; returns the sum of what came out.
double work(int threads, bool bfloat16) {
    const ConvNetPlan plan = two_blocks(bfloat16);
    const int64_t count = kClasses * kEach, size = plan.parameters;
    std::vector<float> theta = numbers(size, 1.7), images = numbers(count * kImage, 0.9);
    std::vector<float> gradients(static_cast<size_t>(kClasses * size)), cotangent(gradients.size()), distance(kClasses);
    std::vector<float> moved(images.size()), scores(static_cast<size_t>(count * kClasses));
    std::vector<int64_t> labels(static_cast<size_t>(count)), order(static_cast<size_t>(2 * count));
    for (int64_t i = 0; i < count; ++i) labels[static_cast<size_t>(i)] = i % kClasses;
    std::iota(order.begin(), order.begin() + count, 0);
    std::iota(order.begin() + count, order.end(), 0);
    std::vector<float> record(static_cast<size_t>(record_size<float>(plan, kClasses, kEach)));
    const ClassImages<float> by_class = {images.data(), kClasses, kEach};
    class_gradients<float>(plan, theta.data(), by_class, labels.data(), record.data(), gradients.data(), threads);
    const Tile tiles[] = {{0, 1, size / 2}, {size / 2, 0, size - size / 2}};
    const std::vector<float> real = numbers(kClasses * size, 0.4);
    const GradientPart whole = {0, size, gradients.data(), size, real.data(), size, cotangent.data()};
    layerwise_distance({{whole}, distance.data(), tiles, 2, kClasses, Dtype::float32, Metric::layerwise_cosine},
                       threads);
    image_gradients<float>(plan, theta.data(), by_class, labels.data(), cotangent.data(), record.data(), moved.data(),
                           threads);
    std::vector<float> product(theta.size()), pushed(images.size());
    hessian_products<float>(plan, theta.data(), by_class, labels.data(), gradients.data(), product.data(),
                            pushed.data(), threads);
    std::vector<float> velocity(theta.size());
    train<float>(plan, {theta.data(), velocity.data()}, {images.data(), {labels.data()}, count}, {order.data(), 2}, {},
                 {20, 0.01, 0.9, 5e-4}, threads);
    std::vector<float> statistics(2 * kFeatures, 1), trained = theta;
    train<float>(normed_by_batch(plan, statistics.data()), {trained.data(), velocity.data()},
                 {images.data(), {labels.data()}, count}, {order.data(), 2}, {}, {20, 0.01, 0.9, 5e-4}, threads);
    outputs<float>(plan, theta.data(), images.data(), count, Output::kLogits, scores.data(), threads);
    std::vector<float> pulled(images.size());
    output_gradients<float>(plan, theta.data(), images.data(), count, Output::kLogits, scores.data(), pulled.data(),
                            threads);
    double sum = 0;
    for (const auto* values :
         {&moved, &theta, &scores, &distance, &velocity, &pulled, &product, &pushed, &trained, &statistics})
        sum = std::accumulate(values->begin(), values->end(), sum);
    return sum;
}

// Whether `count` pieces of work end early, those of helpers taking longer than a watch needs to be asked.
bool ends(int64_t count) {
    const Watch watch([] { return true; });
    const std::thread::id caller = std::this_thread::get_id();
    std::atomic<bool> helped{false};
    const auto sleep = [](int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); };
    try {
        parallel_for(count, 2, [&](int64_t) {
            if (std::this_thread::get_id() != caller) {
                helped = true;
                sleep(200);
            }
            while (!helped) sleep(1);
        });
    } catch (const Stopped&) {
        return true;
    }
    return false;
}

// Whether several callers at once, each with several threads, get what one thread gets.
bool agree(bool bfloat16) {
    const double expected = work(1, bfloat16);
    double results[3] = {};
    std::thread others[] = {std::thread([&] { results[0] = work(4, bfloat16); }),
                            std::thread([&] { results[1] = work(3, bfloat16); })};
    results[2] = work(2, bfloat16);
    for (std::thread& other : others) other.join();
    for (const double result : results) {
        if (!(result == expected)) {
            std::printf("%.17g with several threads, %.17g with one\n", result, expected);
            return false;
        }
    }
    return true;
}

}  // namespace

int main() {
    for (const int64_t count : {2, 1000000000}) {
        if (!ends(count)) {
            std::printf("work was not ended\n");
            return 1;
        }
    }
    return agree(false) && (!has_bfloat16() || agree(true)) ? 0 : 1;
}
