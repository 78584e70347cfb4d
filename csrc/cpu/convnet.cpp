#include "cpu/convnet.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/convnet_tasks.h"
#include "cpu/threads.h"

namespace fastdc {
namespace {

// The plan where weights, their gradients or directions are packed and unpacked for `each` images.
ConvNetPlan packed_for(const ConvNetPlan& plan, int64_t each) {
    ConvNetPlan result = plan;
    result.sharing = each;
    return result;
}

// Calls body(weights, images, workspace) for pieces of `piece` images out of `count`.
template <class T, class Body>
void over_images(const ConvNetKernels<T>& kernel, const ConvNetPlan& plan, const T* theta, int64_t count, int64_t piece,
                 int threads, const Body& body) {
    T* packed = shared_buffer().at_least<T>(kernel.packed_size(plan));
    pack_weights(kernel, plan, theta, packed, threads);
    parallel_for((count + piece - 1) / piece, threads, [&](int64_t number) {
        T* workspace = own_buffer().at_least<T>(kernel.workspace_size(plan));
        body(PackedTheta<T>{theta, packed}, Range{number * piece, std::min(count, (number + 1) * piece)}, workspace);
    });
}

// A record: the packed weights, then what each part of each class leaves. Where that of a task begins:
template <class T>
int64_t place_in_record(const ConvNetPlan& plan, int64_t parts, int64_t each, int64_t task) {
    const ConvNetKernels<T>& kernel = kernels<T>(plan);
    // Of two sizes of parts the smaller may leave more, as it is cut into other groups.
    const int64_t smaller = kernel.record_size(plan, each / parts);
    const int64_t larger = kernel.record_size(plan, (each + parts - 1) / parts);
    return kernel.packed_size(plan) + task * std::max(smaller, larger);
}

}  // namespace

template <class T>
int64_t record_size(const ConvNetPlan& network, int64_t classes, int64_t each) {
    const ConvNetPlan plan = packed_for(network, each);
    const int64_t parts = parts_of(plan.classes, each);
    return place_in_record<T>(plan, parts, each, classes * parts);
}

template <class T>
void class_gradients(const ConvNetPlan& network, const T* theta, const ClassImages<T>& data, const int64_t* labels,
                     T* record, T* out, int threads) {
    const ConvNetKernels<T>& kernel = kernels<T>(network);
    const ConvNetPlan plan = packed_for(network, data.each);
    const int64_t classes = data.classes, each = data.each, parts = parts_of(plan.classes, each),
                  size = plan.parameters;
    const int64_t packed_size = kernel.packed_size(plan);
    T* shared = shared_buffer().at_least<T>((record ? 0 : packed_size) + (parts > 1 ? classes * parts * size : 0));
    T* packed = record ? record : shared;
    T* partial = record ? shared : shared + packed_size;  // [C, parts, P]
    pack_weights(kernel, plan, theta, packed, threads);
    const T scale = T(1) / static_cast<T>(each);
    parallel_for(classes * parts, threads, [&](int64_t task) {
        const int64_t c = task / parts, part = task % parts;
        const int64_t begin = begin_of(part, parts, each), end = begin_of(part + 1, parts, each);
        const T* images = data.images + (c * each + begin) * image_size(plan);
        gradient_of<T>(kernel, plan, {theta, packed}, {images, {labels + c}, nullptr, end - begin, scale}, {},
                       record ? record + place_in_record<T>(plan, parts, each, task) : nullptr,
                       parts > 1 ? partial + task * size : out + c * size);
    });
    if (parts == 1) return;
    for (int64_t c = 0; c < classes; ++c) {
        over_parameters(size, threads, [&](Range elements) {
            kernel.sum({partial + c * parts * size, parts, size}, elements, out + c * size);
        });
    }
}

template <class T>
void image_gradients(const ConvNetPlan& network, const T* theta, const ClassImages<T>& data, const int64_t* labels,
                     const T* cotangent, T* record, T* out, int threads) {
    const ConvNetKernels<T>& kernel = kernels<T>(network);
    const ConvNetPlan plan = packed_for(network, data.each);
    const int64_t classes = data.classes, each = data.each, parts = parts_of(plan.classes, each);
    const int64_t pieces = kernel.pack_pieces(plan), packed_size = kernel.packed_size(plan);
    // Classes whose cotangents are packed together, where several parts share one; else each task packs its own.
    const int64_t together = parts > 1 ? std::min(classes, (threads + parts - 1) / parts) : 0;
    T* shared = shared_buffer().at_least<T>((record ? 0 : packed_size) + together * packed_size);
    T* packed = record ? record : shared;
    T* directions = record ? shared : shared + packed_size;
    if (!record) pack_weights(kernel, plan, theta, packed, threads);
    const T scale = T(1) / static_cast<T>(each);
    const auto along = [&](int64_t c) { return cotangent + c * plan.parameters; };
    const auto part_of_class = [&](int64_t c, int64_t part, const T* direction, T* workspace) {
        const int64_t begin = begin_of(part, parts, each), end = begin_of(part + 1, parts, each);
        const int64_t offset = (c * each + begin) * image_size(plan);
        kernel.image_gradients(plan, {theta, packed}, {along(c), direction},
                               {data.images + offset, {labels + c}, nullptr, end - begin, scale},
                               record ? record + place_in_record<T>(plan, parts, each, c * parts + part) : nullptr,
                               out + offset, workspace);
    };
    if (parts == 1) {
        parallel_for(classes, threads, [&](int64_t c) {
            T* direction = own_buffer().at_least<T>(packed_size + kernel.workspace_size(plan));
            for (int64_t piece = 0; piece < pieces; ++piece) kernel.pack(plan, along(c), piece, direction);
            part_of_class(c, 0, direction, direction + packed_size);
        });
        return;
    }
    for (int64_t first = 0; first < classes; first += together) {
        const int64_t some = std::min(together, classes - first);
        parallel_for(some * pieces, threads, [&](int64_t task) {
            const int64_t c = task / pieces;
            kernel.pack(plan, along(first + c), task % pieces, directions + c * packed_size);
        });
        parallel_for(some * parts, threads, [&](int64_t task) {
            const int64_t c = task / parts;
            part_of_class(first + c, task % parts, directions + c * packed_size,
                          own_buffer().at_least<T>(kernel.workspace_size(plan)));
        });
    }
}

template <class T>
void hessian_products(const ConvNetPlan& plan, const T* theta, const ClassImages<T>& data, const int64_t* labels,
                      const T* direction, T* by_weights, T* by_images, int threads) {
    const ConvNetKernels<T>& kernel = kernels<T>(plan);
    const int64_t count = data.classes * data.each, parts = parts_of(1, count), size = plan.parameters;
    const int64_t packed_size = kernel.packed_size(plan), sums_size = kernel.sums_size(plan);
    T* packed = shared_buffer().at_least<T>(2 * packed_size + parts * size);
    T* along = packed + packed_size;
    T* partial = along + packed_size;  // [parts, P]
    pack_weights(kernel, plan, theta, packed, threads);
    pack_weights(kernel, plan, direction, along, threads);
    std::vector<int64_t> classes(static_cast<size_t>(count)), index(classes.size());
    for (int64_t i = 0; i < count; ++i) {
        classes[static_cast<size_t>(i)] = labels[i / data.each];
        index[static_cast<size_t>(i)] = i;
    }
    const T scale = T(1) / static_cast<T>(count);
    parallel_for(parts, threads, [&](int64_t part) {
        const int64_t begin = begin_of(part, parts, count), end = begin_of(part + 1, parts, count);
        T* sums = own_buffer().at_least<T>(sums_size + kernel.workspace_size(plan));
        std::memset(sums, 0, static_cast<size_t>(sums_size) * sizeof(T));
        kernel.add_hessian_product(plan, {theta, packed}, {direction, along},
                                   {data.images, {classes.data()}, index.data() + begin, end - begin, scale}, sums,
                                   by_images + begin * image_size(plan), sums + sums_size);
        kernel.unpack_gradient(plan, sums, partial + part * size);
    });
    over_parameters(size, threads, [&](Range elements) { kernel.sum({partial, parts, size}, elements, by_weights); });
}

template <class T>
int64_t output_size(const ConvNetPlan& plan, Output output) {
    return kernels<T>(plan).output_size(plan, output);
}

template <class T>
void outputs(const ConvNetPlan& plan, const T* theta, const T* images, int64_t count, Output output, T* out,
             int threads) {
    const ConvNetKernels<T>& kernel = kernels<T>(plan);
    over_images(kernel, plan, theta, count, kMostForward, threads,
                [&](const PackedTheta<T>& weights, Range some, T* workspace) {
                    kernel.outputs(plan, weights, images + some.begin * image_size(plan), some.end - some.begin, output,
                                   out + some.begin * kernel.output_size(plan, output), workspace);
                });
}

template <class T>
void output_gradients(const ConvNetPlan& plan, const T* theta, const T* images, int64_t count, Output output,
                      const T* cotangent, T* out, int threads) {
    const ConvNetKernels<T>& kernel = kernels<T>(plan);
    over_images(kernel, plan, theta, count, kFewestImages, threads,
                [&](const PackedTheta<T>& weights, Range some, T* workspace) {
                    const int64_t begin = some.begin * image_size(plan);
                    kernel.output_gradients(plan, weights, images + begin, some.end - some.begin, output,
                                            cotangent + some.begin * kernel.output_size(plan, output), out + begin,
                                            workspace);
                });
}

#define FASTDC_INSTANTIATE(T)                                                                                        \
    template int64_t record_size<T>(const ConvNetPlan&, int64_t, int64_t);                                           \
    template void class_gradients<T>(const ConvNetPlan&, const T*, const ClassImages<T>&, const int64_t*, T*, T*,    \
                                     int);                                                                           \
    template void image_gradients<T>(const ConvNetPlan&, const T*, const ClassImages<T>&, const int64_t*, const T*,  \
                                     T*, T*, int);                                                                   \
    template void hessian_products<T>(const ConvNetPlan&, const T*, const ClassImages<T>&, const int64_t*, const T*, \
                                      T*, T*, int);                                                                  \
    template int64_t output_size<T>(const ConvNetPlan&, Output);                                                     \
    template void outputs<T>(const ConvNetPlan&, const T*, const T*, int64_t, Output, T*, int);                      \
    template void output_gradients<T>(const ConvNetPlan&, const T*, const T*, int64_t, Output, const T*, T*, int);
FASTDC_INSTANTIATE(float)
FASTDC_INSTANTIATE(double)

}  // namespace fastdc
