// How passes through the ConvNet are cut into tasks, and what tasks share: kernels, pieces, buffers, sums over parts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/buffer.h"
#include "cpu/convnet.h"
#include "cpu/instruction_set.h"
#include "cpu/threads.h"

namespace fastdc {

template <class T>
const ConvNetKernels<T>& choose(const ConvNetKernels<float>& of_float, const ConvNetKernels<double>& of_double) {
    if constexpr (std::is_same_v<T, float>) {
        (void)of_double;
        return of_float;
    } else {
        (void)of_float;
        return of_double;
    }
}

template <class T>
const ConvNetKernels<T>& kernels([[maybe_unused]] const ConvNetPlan& plan) {
#if defined(__x86_64__)
    if (plan.bfloat16) return choose<T>(avx512_bfloat16::convnet_kernels_float, avx2::convnet_kernels_double);
    switch (instruction_set()) {
        case InstructionSet::avx512:
            return choose<T>(avx512::convnet_kernels_float, avx2::convnet_kernels_double);
        case InstructionSet::avx2:
            return choose<T>(avx2::convnet_kernels_float, avx2::convnet_kernels_double);
        case InstructionSet::baseline:
            break;
    }
#endif
    return choose<T>(baseline::convnet_kernels_float, baseline::convnet_kernels_double);
}

constexpr int64_t kMostParts = 8;       // pieces that the images of one class or batch are cut into
constexpr int64_t kFewestParts = 2;     // where there are enough of them
constexpr int64_t kEnoughTasks = 16;    // beyond which more pieces keep no more threads busy
constexpr int64_t kFewestImages = 8;    // of a piece: below, weights cost more than images
constexpr int64_t kMostForward = 32;    // images that one task takes forward
constexpr int64_t kPieceOfSum = 32768;  // elements of a vector [P] that one task adds up

// Of each of `groups` runs of images. A class is cut as if all classes of the network were there, so that it has the
// same bits whatever others come with it.
inline int64_t parts_of(int64_t groups, int64_t each) {
    const int64_t wanted =
        std::clamp((kEnoughTasks + groups - 1) / std::max<int64_t>(1, groups), kFewestParts, kMostParts);
    return std::max<int64_t>(1, std::min(wanted, each / kFewestImages));
}

inline int64_t begin_of(int64_t part, int64_t parts, int64_t count) {
    return part * count / parts;
}

// One buffer per purpose and thread, for as long as the thread lives.
inline Buffer& shared_buffer() {
    thread_local Buffer buffer;
    return buffer;
}
inline Buffer& own_buffer() {
    thread_local Buffer buffer;
    return buffer;
}

template <class T>
void pack_weights(const ConvNetKernels<T>& kernel, const ConvNetPlan& plan, const T* theta, T* packed, int threads) {
    parallel_for(kernel.pack_pieces(plan), threads, [&](int64_t piece) { kernel.pack(plan, theta, piece, packed); });
}

// One part of the gradient of a run of images, into `gradient` [P].
template <class T>
void gradient_of(const ConvNetKernels<T>& kernel, const ConvNetPlan& plan, const PackedTheta<T>& theta,
                 const ImageRun<T>& run, const Distilled<T>& distilled, T* record, T* gradient) {
    const int64_t sums_size = kernel.sums_size(plan);
    T* sums = own_buffer().at_least<T>(sums_size + kernel.workspace_size(plan));
    std::memset(sums, 0, static_cast<size_t>(sums_size) * sizeof(T));
    kernel.add_gradient(plan, theta, run, distilled, sums, record, sums + sums_size);
    kernel.unpack_gradient(plan, sums, gradient);
}

template <class Body>
void over_parameters(int64_t parameters, int threads, const Body& body) {
    parallel_for((parameters + kPieceOfSum - 1) / kPieceOfSum, threads, [&](int64_t piece) {
        body(Range{piece * kPieceOfSum, std::min(parameters, (piece + 1) * kPieceOfSum)});
    });
}

inline int64_t image_size(const ConvNetPlan& plan) {
    return plan.channels * plan.height * plan.width;
}

}  // namespace fastdc
