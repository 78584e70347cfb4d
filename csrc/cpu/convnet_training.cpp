#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/convnet.h"
#include "cpu/convnet_tasks.h"
#include "cpu/threads.h"

namespace fastdc {
namespace {

bool has_batch_norm(const ConvNetPlan& plan) {
    int64_t l = 0;
    while (l < plan.depth && !is_batch_norm(plan, l)) ++l;
    return l < plan.depth;
}

// One part of the images of a batch.
template <class T>
ImageRun<T> part_of(ImageRun<T> run, int64_t part, int64_t parts) {
    const int64_t begin = begin_of(part, parts, run.count);
    run.count = begin_of(part + 1, parts, run.count) - begin;
    run.index += begin;
    return run;
}

Buffer& batch_buffer() {
    thread_local Buffer buffer;
    return buffer;
}

// What the parts of a batch leave from step to step, and what they share.
template <class T>
struct BatchMemory {
    BatchMemory(const ConvNetKernels<T>& kernel, const ConvNetPlan& plan, int64_t batch, int64_t parts) {
        // Of two sizes of parts the smaller may leave more, as it is cut into other groups.
        maps_size = std::max(kernel.batch_maps_size(plan, batch / parts),
                             kernel.batch_maps_size(plan, (batch + parts - 1) / parts));
        sums_size = kernel.sums_size(plan);
        widest = *std::max_element(plan.features, plan.features + plan.depth);
        const int64_t of_parts = parts * (maps_size + sums_size), of_norms = 2 * widest * plan.depth;
        maps = batch_buffer().at_least<T>(of_parts + of_norms + (2 * batch + 6) * widest);
        sums = maps + parts * maps_size;
        statistics = sums + parts * sums_size;
        by_image = statistics + of_norms;
        coefficients = by_image + 2 * batch * widest;
        std::memset(sums, 0, static_cast<size_t>(parts * sums_size) * sizeof(T));
    }

    T* mean(int64_t l) const { return statistics + 2 * l * widest; }
    T* variance(int64_t l) const { return mean(l) + widest; }

    int64_t maps_size, sums_size, widest;
    T* maps;          // [parts, maps_size]
    T* sums;          // [parts, sums_size]
    T* statistics;    // [depth, 2, widest]
    T* by_image;      // [batch, 2, widest]
    T* coefficients;  // [6, widest]
};

// The gradient of a batch whose norms take its statistics, as parts [parts, P]; moves the running statistics on.
template <class T>
void batch_gradient(const ConvNetKernels<T>& kernel, const ConvNetPlan& plan, const PackedTheta<T>& theta,
                    const ImageRun<T>& batch, const Distilled<T>& distilled, T* partial, int threads) {
    const int64_t parts = parts_of(1, batch.count);
    const BatchMemory<T> memory(kernel, plan, batch.count, parts);
    const ByImage<T> by_image = {memory.by_image, batch.count};
    const auto over_parts = [&](const auto& step) {
        parallel_for(parts, threads, [&](int64_t part) {
            step(BatchPart<T>{part_of(batch, part, parts), begin_of(part, parts, batch.count),
                              memory.maps + part * memory.maps_size, memory.sums + part * memory.sums_size,
                              memory.by_image},
                 own_buffer().at_least<T>(kernel.workspace_size(plan)));
        });
    };
    ConvNetPlan of_batch = plan;
    for (int64_t l = 0; l < plan.depth; ++l) {
        of_batch.mean[l] = memory.mean(l);
        of_batch.variance[l] = memory.variance(l);
    }
    for (int64_t l = 0; l <= plan.depth; ++l) {
        over_parts([&](const BatchPart<T>& part, T* workspace) {
            kernel.batch_forward(of_batch, theta, part, distilled, l, workspace);
        });
        if (l < plan.depth && is_batch_norm(plan, l)) {
            kernel.batch_statistics(plan, l, by_image, memory.mean(l), memory.variance(l));
        }
    }
    for (int64_t l = plan.depth - 1; l >= 0; --l) {
        if (is_batch_norm(plan, l)) {
            kernel.batch_coefficients(of_batch, theta.theta, l, by_image, memory.coefficients, memory.sums);
        }
        over_parts([&](const BatchPart<T>& part, T* workspace) {
            kernel.batch_backward(of_batch, theta, part, memory.coefficients, l, workspace);
        });
    }
    parallel_for(parts, threads, [&](int64_t part) {
        kernel.unpack_gradient(plan, memory.sums + part * memory.sums_size, partial + part * plan.parameters);
    });
}

// Which parts of a batch, of so many.
struct Parts {
    int64_t begin, end, count;
};

// The gradients of some parts of a batch whose norms take no statistics of it, [end - begin, P].
template <class T>
void gradients_of(const ConvNetKernels<T>& kernel, const ConvNetPlan& plan, const PackedTheta<T>& theta,
                  const ImageRun<T>& batch, const Distilled<T>& distilled, const Parts& parts, T* partial,
                  int threads) {
    parallel_for(parts.end - parts.begin, threads, [&](int64_t i) {
        gradient_of<T>(kernel, plan, theta, part_of(batch, parts.begin + i, parts.count), distilled, nullptr,
                       partial + i * plan.parameters);
    });
}

template <class T>
void move(const ConvNetKernels<T>& kernel, const PartialSums<T>& gradients, const SgdOptions& sgd,
          const Moving<T>& weights, int threads) {
    over_parameters(gradients.size, threads,
                    [&](Range elements) { kernel.update(gradients, elements, sgd, weights.velocity, weights.theta); });
}

}  // namespace

int64_t batch_parts(int64_t batch) {
    return parts_of(1, batch);
}

template <class T>
void part_gradients(const ConvNetPlan& plan, const T* theta, const LabelledImages<T>& batch, int64_t first,
                    int64_t count, T* gradients, int threads) {
    const ConvNetKernels<T>& kernel = kernels<T>(plan);
    T* packed = shared_buffer().at_least<T>(kernel.packed_size(plan));
    pack_weights<T>(kernel, plan, theta, packed, threads);
    std::vector<int64_t> index(static_cast<size_t>(batch.count));
    std::iota(index.begin(), index.end(), 0);
    const ImageRun<T> run = {batch.images, batch.labels, index.data(), batch.count, T(1) / static_cast<T>(batch.count)};
    gradients_of<T>(kernel, plan, {theta, packed}, run, {}, {first, first + count, batch_parts(batch.count)}, gradients,
                    threads);
}

template <class T>
void move(const ConvNetPlan& plan, const Moving<T>& weights, const T* gradients, int64_t count, const SgdOptions& sgd,
          int threads) {
    move<T>(kernels<T>(plan), {gradients, count, plan.parameters}, sgd, weights, threads);
}

template <class T>
void train(const ConvNetPlan& plan, const Moving<T>& weights, const LabelledImages<T>& data, const Order& order,
           const Distilled<T>& distilled, const SgdOptions& sgd, int threads) {
    const ConvNetKernels<T>& kernel = kernels<T>(plan);
    const int64_t count = data.count, size = plan.parameters, packed_size = kernel.packed_size(plan);
    T* packed = shared_buffer().at_least<T>(packed_size + kMostParts * size);
    T* partial = packed + packed_size;  // [parts, P]
    for (int64_t epoch = 0; epoch < order.epochs; ++epoch) {
        for (int64_t first = 0; first < count; first += sgd.batch) {
            const int64_t* index = order.index + epoch * count + first;
            const int64_t batch = std::min(sgd.batch, count - first), parts = parts_of(1, batch);
            const ImageRun<T> run = {data.images, data.labels, index, batch, T(1) / static_cast<T>(batch)};
            pack_weights<T>(kernel, plan, weights.theta, packed, threads);
            if (has_batch_norm(plan)) {
                batch_gradient<T>(kernel, plan, {weights.theta, packed}, run, distilled, partial, threads);
            } else {
                gradients_of<T>(kernel, plan, {weights.theta, packed}, run, distilled, {0, parts, parts}, partial,
                                threads);
            }
            move<T>(kernel, {partial, parts, size}, sgd, weights, threads);
        }
    }
}

template void part_gradients<float>(const ConvNetPlan&, const float*, const LabelledImages<float>&, int64_t, int64_t,
                                    float*, int);
template void part_gradients<double>(const ConvNetPlan&, const double*, const LabelledImages<double>&, int64_t, int64_t,
                                     double*, int);
template void move<float>(const ConvNetPlan&, const Moving<float>&, const float*, int64_t, const SgdOptions&, int);
template void move<double>(const ConvNetPlan&, const Moving<double>&, const double*, int64_t, const SgdOptions&, int);
template void train<float>(const ConvNetPlan&, const Moving<float>&, const LabelledImages<float>&, const Order&,
                           const Distilled<float>&, const SgdOptions&, int);
template void train<double>(const ConvNetPlan&, const Moving<double>&, const LabelledImages<double>&, const Order&,
                            const Distilled<double>&, const SgdOptions&, int);

}  // namespace fastdc
