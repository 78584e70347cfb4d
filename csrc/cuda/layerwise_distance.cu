#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../row_distance.h"
#include "layerwise_distance.h"

namespace fastdc {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kLongestWarpRow = 1024;  // elements; above it the whole block takes a row
constexpr int kElementsPerLane = 4;        // short rows get fewer lanes: a row's roots and quotients cost a warp alike
constexpr int64_t kSmallestPacked = 128;   // elements; below it the edges would cost more than wide loads save
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ double to_double(float value) {
    return value;
}
__device__ __forceinline__ double to_double(double value) {
    return value;
}
__device__ __forceinline__ double to_double(__half value) {
    return __half2float(value);
}
__device__ __forceinline__ double to_double(__nv_bfloat16 value) {
    return __bfloat162float(value);
}

template <typename Element>
__device__ __forceinline__ Element from_double(double value) {
    if constexpr (std::is_same_v<Element, __half>) {
        return __double2half(value);
    } else if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
        return __double2bfloat16(value);
    } else {
        return static_cast<Element>(value);
    }
}

template <typename Element>
using DistanceOf = std::conditional_t<std::is_same_v<Element, double>, double, float>;

// As many elements as one 16-byte access moves.
template <typename Element>
struct Pack {
    static constexpr int kSize = sizeof(uint4) / sizeof(Element);
    Element elements[kSize];
};

template <typename Element>
__device__ __forceinline__ Pack<Element> load_pack(const Element* from) {
    const uint4 bits = __ldg(reinterpret_cast<const uint4*>(from));
    Pack<Element> pack;
    std::memcpy(&pack, &bits, sizeof(bits));
    return pack;
}

template <typename Element>
__device__ __forceinline__ void store_pack(Element* to, const Pack<Element>& pack) {
    uint4 bits;
    std::memcpy(&bits, &pack, sizeof(bits));
    __stwb(reinterpret_cast<uint4*>(to), bits);  // a plain store is taken apart by the compiler
}

__device__ __forceinline__ unsigned misalignment(const void* pointer) {
    return static_cast<unsigned>(reinterpret_cast<uintptr_t>(pointer) % sizeof(uint4));
}

// Calls visit(a, b) for each pair of elements of a stretch that `lanes` lanes share, of which this thread is number
// `lane`; with `writes`, what it returns becomes the element of the cotangent. Accesses are 16 bytes wide where the
// tensors are misaligned alike: then the elements before the first boundary and after the last one are visited one at a
// time.
template <bool writes, typename Element, typename Visit>
__device__ __forceinline__ void for_each(const Element* __restrict__ synthetic, const Element* __restrict__ real,
                                         Element* __restrict__ cotangent, int64_t size, int lane, int lanes,
                                         const Visit& visit) {
    constexpr int kPack = Pack<Element>::kSize;
    int64_t head = size;
    int64_t packs = 0;
    const unsigned shift = misalignment(synthetic);
    const bool alike = shift == misalignment(real) && (!writes || shift == misalignment(cotangent));
    if (alike && size >= kSmallestPacked) {
        head = (sizeof(uint4) - shift) % sizeof(uint4) / sizeof(Element);
        packs = (size - head) / kPack;
    }
#pragma unroll 1  // more would need registers, which leaves room for fewer warps
    for (int64_t pack = lane; pack < packs; pack += lanes) {
        const int64_t at = head + pack * kPack;
        const Pack<Element> a = load_pack(synthetic + at);
        const Pack<Element> b = load_pack(real + at);
        Pack<Element> out;
#pragma unroll
        for (int i = 0; i < kPack; ++i) {
            const double value = visit(to_double(a.elements[i]), to_double(b.elements[i]));
            if constexpr (writes) out.elements[i] = from_double<Element>(value);
        }
        if constexpr (writes) store_pack(cotangent + at, out);
    }
    const int64_t packed = packs * kPack;
#pragma unroll 2
    for (int64_t i = lane; i < size - packed; i += lanes) {
        const int64_t at = i < head ? i : i + packed;
        const double value = visit(to_double(__ldg(synthetic + at)), to_double(__ldg(real + at)));
        if constexpr (writes) cotangent[at] = from_double<Element>(value);
    }
}

// The sum over groups of `lanes` neighbouring lanes (a power of two), in every lane of the group. Needs the whole warp.
__device__ __forceinline__ double lane_sum(double value, int lanes) {
    for (int offset = lanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
    return value;
}

__device__ __forceinline__ RowSums lane_sum(const RowSums& sums, int lanes) {
    return {lane_sum(sums.dot, lanes), lane_sum(sums.synthetic, lanes), lane_sum(sums.real, lanes)};
}

// The sum over the block, in every thread, added in the same order by all of them. Needs the whole block.
template <typename Sums>
__device__ __forceinline__ Sums block_sum(Sums sums, Sums* warp_sums) {
    sums = lane_sum(sums, kWarp);
    __syncthreads();  // warp_sums may still be read by threads that have not left the previous call
    if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = sums;
    __syncthreads();
    Sums total = warp_sums[0];
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) {
        if constexpr (std::is_same_v<Sums, RowSums>) {
            total.dot += warp_sums[warp].dot;
            total.synthetic += warp_sums[warp].synthetic;
            total.real += warp_sums[warp].real;
        } else {
            total += warp_sums[warp];
        }
    }
    return total;
}

template <typename Element>
__device__ __forceinline__ void add_products(RowSums& sums, const Element* __restrict__ synthetic,
                                             const Element* __restrict__ real, int64_t size, int lane, int lanes) {
    for_each<false>(synthetic, real, static_cast<Element*>(nullptr), size, lane, lanes, [&sums](double a, double b) {
        sums.dot += a * b;
        sums.synthetic += a * a;
        sums.real += b * b;
        return 0.0;
    });
}

template <typename Element>
__device__ __forceinline__ void write_cotangent(const RowResult& result, const Element* __restrict__ synthetic,
                                                const Element* __restrict__ real, Element* __restrict__ cotangent,
                                                int64_t size, int lane, int lanes) {
    for_each<true>(synthetic, real, cotangent, size, lane, lanes,
                   [&result](double a, double b) { return result.along * a - result.across * b; });
}

// This thread's share of the distance of a tile's rows, each row taken by a group of lanes of one warp.
template <typename Element>
__device__ __forceinline__ double rows_by_lanes(const Element* __restrict__ synthetic, const Element* __restrict__ real,
                                                Element* __restrict__ cotangent, int64_t rows, int64_t row_length) {
    int lanes = 1;
    while (lanes < kWarp && lanes * kElementsPerLane < row_length) lanes *= 2;
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % lanes;
    const int64_t group = thread / lanes;
    double distance = 0;
    // The loop ends for all lanes of a warp at once, though some may have no row left: shuffles need every lane.
    for (int64_t first = 0; first < rows; first += kThreads / lanes) {
        const int64_t row = first + group;
        const int64_t at = row * row_length;
        RowSums sums = {};
        if (row < rows) add_products(sums, synthetic + at, real + at, row_length, lane, lanes);
        sums = lane_sum(sums, lanes);
        if (row < rows) {
            const RowResult result = cosine_result(sums);
            write_cotangent(result, synthetic + at, real + at, cotangent + at, row_length, lane, lanes);
            if (lane == 0) distance += result.distance;
        }
    }
    return distance;
}

// The same, each row taken by the whole block.
template <typename Element>
__device__ __forceinline__ double rows_by_block(const Element* __restrict__ synthetic, const Element* __restrict__ real,
                                                Element* __restrict__ cotangent, int64_t rows, int64_t row_length,
                                                RowSums* warp_sums) {
    const int thread = static_cast<int>(threadIdx.x);
    double distance = 0;
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t at = row * row_length;
        RowSums sums = {};
        add_products(sums, synthetic + at, real + at, row_length, thread, kThreads);
        const RowResult result = cosine_result(block_sum(sums, warp_sums));
        write_cotangent(result, synthetic + at, real + at, cotangent + at, row_length, thread, kThreads);
        if (thread == 0) distance += result.distance;
    }
    return distance;
}

// Whether this block is the last one of its class to arrive here, in which case it sees what thread 0 of each of the
// others wrote before it arrived. Needs the whole block.
__device__ __forceinline__ bool is_last(unsigned* ticket, unsigned tile_count) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        __threadfence();  // the sums of this block come before its ticket
        last = atomicAdd(ticket, 1u) == tile_count - 1;
        __threadfence();  // the other blocks' sums are read after their tickets were seen
    }
    __syncthreads();
    return last;
}

template <Metric metric, typename Element>
__global__ void __launch_bounds__(kThreads)
    layerwise_distance(const Element* __restrict__ synthetic, int64_t synthetic_stride,
                       const Element* __restrict__ real, int64_t real_stride, DistanceOf<Element>* distance,
                       Element* __restrict__ cotangent, const int64_t* __restrict__ tiles, unsigned tile_count,
                       double* partial, unsigned* tickets, int64_t size) {
    // Metric cosine knows its coefficients from all three sums of a class; the others add up distances.
    using Sums = std::conditional_t<metric == Metric::cosine, RowSums, double>;
    __shared__ RowSums row_sums[kWarps];
    __shared__ Sums tile_sums[kWarps];

    const int thread = static_cast<int>(threadIdx.x);
    const int64_t class_index = blockIdx.x / tile_count;
    const int64_t tile = blockIdx.x % tile_count;
    synthetic += class_index * synthetic_stride;
    real += class_index * real_stride;
    cotangent += class_index * size;
    partial += class_index * tile_count * 3;

    const int64_t offset = tiles[tile * 3];
    const int64_t rows = tiles[tile * 3 + 1];
    const int64_t row_length = tiles[tile * 3 + 2];
    const Element* a = synthetic + offset;
    const Element* b = real + offset;
    Element* out = cotangent + offset;

    Sums sums = {};
    if (rows == 0) {
        for (int64_t i = thread; i < row_length; i += kThreads) out[i] = from_double<Element>(0.0);
    } else if constexpr (metric == Metric::cosine) {
        add_products(sums, a, b, rows * row_length, thread, kThreads);
    } else if constexpr (kIsByElement<metric>) {
        for_each<true>(a, b, out, rows * row_length, thread, kThreads, [&sums](double x, double y) {
            const ElementResult<double> result = element_result<metric>(x - y);
            sums += result.distance;
            return result.cotangent;
        });
    } else {
        static_assert(metric == Metric::layerwise_cosine, "a metric without code");
        sums = row_length <= kLongestWarpRow ? rows_by_lanes(a, b, out, rows, row_length)
                                             : rows_by_block(a, b, out, rows, row_length, row_sums);
    }
    sums = block_sum(sums, tile_sums);
    if (thread == 0) {
        double* part = partial + tile * 3;
        if constexpr (metric == Metric::cosine) {
            part[0] = sums.dot;
            part[1] = sums.synthetic;
            part[2] = sums.real;
        } else {
            part[0] = sums;
        }
    }
    if (!is_last(tickets + class_index, tile_count)) return;

    sums = {};
#pragma unroll 2
    for (int64_t other = thread; other < tile_count; other += kThreads) {
        // __ldcg reads past this multiprocessor's own cache, which other blocks' writes do not reach.
        const double* part = partial + other * 3;
        if constexpr (metric == Metric::cosine) {
            sums.dot += __ldcg(part);
            sums.synthetic += __ldcg(part + 1);
            sums.real += __ldcg(part + 2);
        } else {
            sums += __ldcg(part);
        }
    }
    sums = block_sum(sums, tile_sums);
    if constexpr (metric == Metric::cosine) {
        const RowResult result = cosine_result(sums);
        bool any = false;  // a class without rows has the distance 0, not that of a row of zeros
        for (int64_t other = 0; other < tile_count; ++other) {
            const int64_t at = tiles[other * 3];
            const int64_t others_rows = tiles[other * 3 + 1];
            const int64_t elements = others_rows * tiles[other * 3 + 2];  // 0 where its own block wrote zeros
            write_cotangent(result, synthetic + at, real + at, cotangent + at, elements, thread, kThreads);
            any = any || others_rows > 0;
        }
        if (thread == 0) distance[class_index] = static_cast<DistanceOf<Element>>(any ? result.distance : 0.0);
    } else if (thread == 0) {
        distance[class_index] = static_cast<DistanceOf<Element>>(sums);
    }
    if (thread == 0) tickets[class_index] = 0;  // as the next launch on this stream expects it
}

std::atomic<int> launches{0};

struct Call {
    const void* synthetic;
    int64_t synthetic_stride;
    const void* real;
    int64_t real_stride;
    void* distance;
    void* cotangent;
    const int64_t* tiles;
    int64_t tile_count;
    double* partial;
    unsigned* tickets;
    int64_t classes;
    int64_t size;
    cudaStream_t stream;
};

template <Metric metric, typename Element>
cudaError_t launch(const Call& call) {
    const unsigned blocks = static_cast<unsigned>(call.classes * call.tile_count);
    layerwise_distance<metric, Element><<<blocks, kThreads, 0, call.stream>>>(
        static_cast<const Element*>(call.synthetic), call.synthetic_stride, static_cast<const Element*>(call.real),
        call.real_stride, static_cast<DistanceOf<Element>*>(call.distance), static_cast<Element*>(call.cotangent),
        call.tiles, static_cast<unsigned>(call.tile_count), call.partial, call.tickets, call.size);
    const cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess) ++launches;
    return error;
}

using Launch = cudaError_t (*)(const Call&);

template <Metric metric>
Launch launch_of(int dtype) {
    switch (dtype) {
        case 0:
            return launch<metric, float>;
        case 1:
            return launch<metric, double>;
        case 2:
            return launch<metric, __half>;
        case 3:
            return launch<metric, __nv_bfloat16>;
        default:
            return nullptr;
    }
}

template <std::size_t... i>
Launch launch_of(int dtype, Metric metric, std::index_sequence<i...>) {
    Launch found = nullptr;
    ((kMetrics[i].value == metric ? void(found = launch_of<kMetrics[i].value>(dtype)) : void()), ...);
    return found;
}

// What `work`, done with `device` as the current one, returns. The device that was current before is so again.
template <typename Work>
cudaError_t on_device(int device, const Work& work) {
    int current = 0;
    cudaError_t error = cudaGetDevice(&current);
    if (error != cudaSuccess) return error;
    if (current == device) return work();
    error = cudaSetDevice(device);
    if (error == cudaSuccess) error = work();
    const cudaError_t restored = cudaSetDevice(current);
    return error == cudaSuccess ? restored : error;
}

const char* text_of(cudaError_t error) {
    if (error == cudaSuccess) return nullptr;
    cudaGetLastError();  // this call reports the error; the next one must not find it again
    return cudaGetErrorString(error);
}

}  // namespace
}  // namespace fastdc

extern "C" const char* fastdc_cuda_layerwise_distance(const void* synthetic, int64_t synthetic_stride, const void* real,
                                                      int64_t real_stride, void* distance, void* cotangent,
                                                      const int64_t* tiles, int64_t tile_count, double* partial,
                                                      unsigned* tickets, int64_t classes, int64_t size, int dtype,
                                                      int metric, int device, void* stream) {
    const fastdc::Launch launch = fastdc::launch_of(dtype, static_cast<fastdc::Metric>(metric), fastdc::EachMetric{});
    if (launch == nullptr) return "the dtype or the metric is not one that the kernel was compiled for";
    if (classes < 1 || tile_count < 1) return "there are no classes or no tiles";
    if (classes > INT_MAX / tile_count) return "there are more classes times tiles than a grid holds blocks (2^31 - 1)";
    const fastdc::Call call = {synthetic,
                               synthetic_stride,
                               real,
                               real_stride,
                               distance,
                               cotangent,
                               tiles,
                               tile_count,
                               partial,
                               tickets,
                               classes,
                               size,
                               static_cast<cudaStream_t>(stream)};
    return fastdc::text_of(fastdc::on_device(device, [&] { return launch(call); }));
}

extern "C" const char* fastdc_cuda_unusable(int device) {
    return fastdc::text_of(fastdc::on_device(device, [] {
        cudaFuncAttributes attributes;  // one kernel stands for all: they are compiled for the same cards
        return cudaFuncGetAttributes(&attributes, fastdc::layerwise_distance<fastdc::Metric::mse, float>);
    }));
}

extern "C" int fastdc_cuda_launches() {
    return fastdc::launches.load();
}

extern "C" const char* fastdc_cuda_metric_name(int metric) {
    return fastdc::name_of(fastdc::kMetrics, static_cast<fastdc::Metric>(metric));
}
