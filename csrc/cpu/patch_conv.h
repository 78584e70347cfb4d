// Convolutions of channels-last maps with any kernel, stride and padding, as products of matrices: what is not 3x3 or
// 5x5 at every pixel, and these too on maps too small, or of too few images, for Winograd's. A linear layer that reads
// a map is the convolution whose kernel is the whole map.
//
//     z[y, x, o] = bias[o] + sum_{a, b, c} map[y s + a - p, x s + b - p, c] weight[o, c, a, b]
//
//     map      [images, height, width, channels]; any number of channels
//     z        [images, height', width', features]; features a multiple of 8; height' = (height + 2 p - kernel) / s + 1
//     weight   [features, channels, kernel height, kernel width]   torch
//     patches  [rows, depth]: what each position of z reads, image by image; depth runs over the taps (a, b) and the
//              channels, and is rounded up to a multiple of 8 with zeros. Taps that no position finds within the map
//              are left out. Rows are padded_stride<T>(depth) apart.
//     packed   operands of gemm.h, patch_packed_size<T> elements each: forward [depth, features], backward [features,
//              depth]
//     sums     [depth, features]: gradients by the weights
//
//     weight gradient:  sums += patches^T gz
//     input gradient:   gmap = the sum of gz weight^T where the patches were read
//
// Patches are made anew for each product, some rows at a time. One thread; every sum has a fixed order.
#pragma once

#include <cstdint>

#include "gemm.h"
#include "vector.h"

namespace fastdc {
namespace {

// A range of taps.
struct Taps {
    int64_t begin, end;

    int64_t count() const { return end - begin; }
};

// Those of a kernel that any position finds within a map of `size` pixels.
inline Taps taps_within(int64_t size, int64_t out_size, int64_t kernel, int64_t stride, int64_t padding) {
    int64_t begin = kernel, end = 0;
    for (int64_t tap = 0; tap < kernel; ++tap) {
        const int64_t out = tap < padding ? (padding - tap + stride - 1) / stride : 0;  // the first not before the map
        if (out >= out_size || out * stride + tap - padding >= size) continue;
        begin = tap < begin ? tap : begin;
        end = tap + 1;
    }
    return begin < end ? Taps{begin, end} : Taps{0, 1};
}

inline int64_t convolved(int64_t size, int64_t kernel, int64_t stride, int64_t padding) {
    return (size + 2 * padding - kernel) / stride + 1;
}

// Made by patch_shape.
struct PatchShape {
    int64_t images, height, width, channels;  // of the map
    int64_t features, out_height, out_width;  // of z
    int64_t kernel_height, kernel_width, stride, padding;
    Taps rows_of_taps, columns_of_taps;

    int64_t positions() const { return out_height * out_width; }
    int64_t rows() const { return images * positions(); }
    int64_t run() const { return columns_of_taps.count() * channels; }  // of neighbours, in elements
    int64_t used() const { return rows_of_taps.count() * run(); }
    int64_t depth() const { return (used() + 7) / 8 * 8; }
    int64_t filter() const { return channels * kernel_height * kernel_width; }
    // Where the t-th element of a patch has its weight in a filter [channels, kernel height, kernel width].
    int64_t place(int64_t t) const {
        const int64_t tap = t / channels, row = tap / columns_of_taps.count(), column = tap % columns_of_taps.count();
        return (t % channels * kernel_height + rows_of_taps.begin + row) * kernel_width + columns_of_taps.begin +
               column;
    }
    // The element of a patch that meets the weight at this place; -1: none does.
    int64_t element(int64_t place) const {
        const int64_t row = place / kernel_width % kernel_height - rows_of_taps.begin;
        const int64_t column = place % kernel_width - columns_of_taps.begin;
        if (row < 0 || row >= rows_of_taps.count() || column < 0 || column >= columns_of_taps.count()) return -1;
        return (row * columns_of_taps.count() + column) * channels + place / kernel_width / kernel_height;
    }
};

struct Kernel {
    int64_t height, width, stride, padding;
};

inline PatchShape patch_shape(int64_t images, int64_t height, int64_t width, int64_t channels, int64_t features,
                              const Kernel& kernel) {
    const int64_t out_height = convolved(height, kernel.height, kernel.stride, kernel.padding);
    const int64_t out_width = convolved(width, kernel.width, kernel.stride, kernel.padding);
    return {images,
            height,
            width,
            channels,
            features,
            out_height,
            out_width,
            kernel.height,
            kernel.width,
            kernel.stride,
            kernel.padding,
            taps_within(height, out_height, kernel.height, kernel.stride, kernel.padding),
            taps_within(width, out_width, kernel.width, kernel.stride, kernel.padding)};
}

// ---- Sizes, packing ----

template <class T>
inline int64_t patch_packed_size(int64_t k, int64_t n) {
    return elements_of<T>(k) * padded_columns<T>(n);
}

// Rows of patches that are in memory at once: these many bytes, or a block of the micro-kernel.
constexpr int64_t kPatchBytes = 1 << 19;

template <class T>
inline int64_t patch_chunk(const PatchShape& shape) {
    const int64_t fit = kPatchBytes / (padded_stride<T>(shape.depth()) * static_cast<int64_t>(sizeof(T)));
    const int64_t most = fit < kRowsMax ? kRowsMax : fit;
    return shape.rows() < most ? shape.rows() : most;
}
template <class T>
inline int64_t patches_size(const PatchShape& shape) {
    return patch_chunk<T>(shape) * padded_stride<T>(shape.depth());
}

// Filters that are gone through together.
constexpr int64_t kFilters = 32;
inline int64_t filters_from(const PatchShape& shape, int64_t first) {
    return shape.features - first < kFilters ? shape.features - first : kFilters;
}

// Calls square(feature, place, elements) for squares of kSquare features by as many neighbouring places in their
// filters, and single(feature, place, element) for what is left, some features from `first` on; elements are those of a
// patch. Filters may lie in the same sets of the cache: a line of each is finished before the next filter.
template <class T, class Square, class Single>
FASTDC_INLINE void over_filters(const PatchShape& shape, int64_t first, int64_t count, Square square, Single single) {
    constexpr int64_t size = kSquare<T>, line = 64 / static_cast<int64_t>(sizeof(T));
    const int64_t filter = shape.filter();
    for (int64_t place = 0; place < filter; place += line) {
        const int64_t places = filter - place < line ? filter - place : line;
        int64_t elements[line];
        for (int64_t i = 0; i < places; ++i) elements[i] = shape.element(place + i);
        for (int64_t o = first; o < first + count; o += size) {
            int64_t i = 0;
            for (; i + size <= places; i += size) square(o, place + i, elements + i);
            for (; i < places; ++i) {
                for (int64_t j = 0; j < size; ++j) single(o + j, place + i, elements[i]);
            }
        }
    }
}

template <class T>
void pack_patch_weights(const PatchShape& shape, const T* weight, T* packed) {
    constexpr int size = kSquare<T>;
    typedef typename VectorOf<T, size>::type Vector;
    const int64_t filter = shape.filter(), depth = shape.depth();
    for (int64_t first = 0; first < shape.features; first += kPanel<T>) {
        const int64_t rest = shape.features - first, columns = rest < kPanel<T> ? rest : kPanel<T>;
        const int64_t width = padded_columns<T>(columns);
        const auto square = [&](int64_t o, int64_t place, const int64_t* elements) FASTDC_INLINE_LAMBDA {
            Vector rows[size];
#pragma GCC unroll 4
            for (int i = 0; i < size; ++i) rows[i] = load<Vector>(weight + (o + i) * filter + place);
            transpose_square(rows);
#pragma GCC unroll 4
            for (int i = 0; i < size; ++i) {
                if (elements[i] >= 0)
                    put_number(elements[i], rows[i], packed + elements[i] / kTerms<T> * width + o - first);
            }
        };
        const auto single = [&](int64_t o, int64_t place, int64_t element) FASTDC_INLINE_LAMBDA {
            if (element >= 0)
                put_number(element, weight[o * filter + place], packed + element / kTerms<T> * width + o - first);
        };
        over_filters<T>(shape, first, columns, square, single);
        for (int64_t t = 0; t < depth; ++t) {
            for (int64_t j = t < shape.used() ? columns : 0; j < width; ++j)
                put_number(t, T(0), packed + t / kTerms<T> * width + j);
        }
        packed += elements_of<T>(depth) * width;
    }
}

// Of the way back: some filters at a time, which stay in the cache while the panels are written.
template <class T>
void pack_patch_weights_backward(const PatchShape& shape, const T* weight, T* packed) {
    const int64_t filter = shape.filter(), features = shape.features, depth = shape.depth(), used = shape.used();
    for (int64_t some = 0; some < features; some += kFilters) {
        for (int64_t first = 0; first < depth; first += kPanel<T>) {
            const int64_t columns = depth - first < kPanel<T> ? depth - first : kPanel<T>;
            const int64_t width = padded_columns<T>(columns), present = used - first < columns ? used - first : columns;
            int64_t places[kPanel<T>];
            for (int64_t j = 0; j < present; ++j) places[j] = shape.place(first + j);
            for (int64_t o = some; o < some + filters_from(shape, some); ++o) {
                T* to = packed + first * elements_of<T>(features) + o / kTerms<T> * width;
                for (int64_t j = 0; j < present; ++j) put_number(o, weight[o * filter + places[j]], to + j);
                for (int64_t j = present; j < width; ++j) put_number(o, T(0), to + j);
            }
        }
    }
}

// gweight += sums in torch's order.
template <class T>
void unpack_patch_gradient(const PatchShape& shape, const T* sums, T* gweight) {
    constexpr int size = kSquare<T>;
    typedef typename VectorOf<T, size>::type Vector;
    const int64_t filter = shape.filter(), features = shape.features;
    const auto square = [&](int64_t o, int64_t place, const int64_t* elements) FASTDC_INLINE_LAMBDA {
        Vector rows[size];
#pragma GCC unroll 4
        for (int i = 0; i < size; ++i) {
            rows[i] = elements[i] < 0 ? Vector{} : load<Vector>(sums + elements[i] * features + o);
        }
        transpose_square(rows);
#pragma GCC unroll 4
        for (int i = 0; i < size; ++i) {
            T* to = gweight + (o + i) * filter + place;
            store(to, load<Vector>(to) + rows[i]);
        }
    };
    const auto single = [&](int64_t o, int64_t place, int64_t element) FASTDC_INLINE_LAMBDA {
        if (element >= 0) gweight[o * filter + place] += sums[element * features + o];
    };
    for (int64_t first = 0; first < features; first += kFilters) {
        over_filters<T>(shape, first, filters_from(shape, first), square, single);
    }
}

// ---- Patches ----

// Copies, or adds, elements of which there may be few.
template <Write write, class T>
FASTDC_INLINE void put_run(const T* from, int64_t count, T* to) {
    typedef typename VectorOf<T, 4>::type Vector;
    int64_t at = 0;
    for (; at + 4 <= count; at += 4) {
        Vector value = load<Vector>(from + at);
        if (write == Write::kAdd) value += load<Vector>(to + at);
        store(to + at, value);
    }
    for (; at < count; ++at) to[at] = write == Write::kAdd ? to[at] + from[at] : from[at];
}

template <class T>
FASTDC_INLINE void clear_run(int64_t count, T* to) {
    for (int64_t at = 0; at < count; ++at) to[at] = T(0);
}

// Calls visit(element of a patch's row, element of the map, how many) for the runs of one row of patches that lie
// within the map, and miss(element of a patch's row, how many) for what does not.
template <class Visit, class Miss>
FASTDC_INLINE void over_runs(const PatchShape& shape, int64_t image, int64_t y, int64_t x, Visit visit, Miss miss) {
    const Taps &rows = shape.rows_of_taps, &columns = shape.columns_of_taps;
    const int64_t channels = shape.channels, run = shape.run();
    const int64_t left = x * shape.stride + columns.begin - shape.padding;  // column of the first tap
    const int64_t before = left < 0 ? -left : 0, over = left + columns.count() - shape.width;
    const int64_t skipped = (before < columns.count() ? before : columns.count()) * channels;
    const int64_t until = run - (over > 0 ? (over < columns.count() ? over : columns.count()) * channels : 0);
    int64_t at = 0;
    for (int64_t a = rows.begin; a < rows.end; ++a, at += run) {
        const int64_t row = y * shape.stride + a - shape.padding;
        if (row < 0 || row >= shape.height || skipped >= until) {
            miss(at, run);
            continue;
        }
        const int64_t from = ((image * shape.height + row) * shape.width + left) * channels;
        if (skipped > 0) miss(at, skipped);
        visit(at + skipped, from + skipped, until - skipped);
        if (until < run) miss(at + until, run - until);
    }
}

// Calls body(row of patches counted from `first`, image, y, x) for `count` of them.
template <class Body>
FASTDC_INLINE void over_positions(const PatchShape& shape, int64_t first, int64_t count, Body body) {
    int64_t image = first / shape.positions(), y = first % shape.positions() / shape.out_width;
    int64_t x = first % shape.out_width;
    for (int64_t row = 0; row < count; ++row) {
        body(row, image, y, x);
        if (++x < shape.out_width) continue;
        x = 0;
        if (++y < shape.out_height) continue;
        y = 0;
        ++image;
    }
}

// Copies the runs of a patch that lies within the map; `line` elements lie between them there.
template <class T>
FASTDC_INLINE void put_runs(const T* from, int64_t line, int64_t runs, int64_t count, T* to) {
    typedef typename VectorOf<T, 4>::type Vector;
    if (count < 4 || count > 16) {
        for (; runs > 0; --runs, from += line, to += count) put_run<Write::kOver>(from, count, to);
        return;
    }
    // Of a few channels: the last vectors overlap, which spares a loop for every run.
    const int64_t last = count - 4, second = last < 4 ? last : 4, third = last < 8 ? last : 8;
    for (; runs > 0; --runs, from += line, to += count) {
        store(to, load<Vector>(from));
        store(to + second, load<Vector>(from + second));
        store(to + third, load<Vector>(from + third));
        store(to + last, load<Vector>(from + last));
    }
}

template <class T>
__attribute__((noinline)) void gather_patches(const PatchShape& shape, int64_t first, int64_t count, const T* map,
                                              T* patches) {
    const int64_t stride = padded_stride<T>(shape.depth()), used = shape.used(), depth = shape.depth();
    const int64_t run = shape.run(), rows = shape.rows_of_taps.count(), columns = shape.columns_of_taps.count();
    over_positions(shape, first, count, [&](int64_t row, int64_t image, int64_t y, int64_t x) {
        T* to = patches + row * stride;
        const int64_t top = y * shape.stride + shape.rows_of_taps.begin - shape.padding;
        const int64_t left = x * shape.stride + shape.columns_of_taps.begin - shape.padding;
        if (top >= 0 && left >= 0 && top + rows <= shape.height && left + columns <= shape.width) {
            const int64_t from = ((image * shape.height + top) * shape.width + left) * shape.channels;
            put_runs(map + from, shape.width * shape.channels, rows, run, to);
            clear_run(depth - used, to + used);
            return;
        }
        over_runs(
            shape, image, y, x,
            [&](int64_t at, int64_t from, int64_t size) { put_run<Write::kOver>(map + from, size, to + at); },
            [&](int64_t at, int64_t size) { clear_run(size, to + at); });
        clear_run(depth - used, to + used);
    });
}

// The way back, adding to the map.
template <class T>
__attribute__((noinline)) void scatter_patches(const PatchShape& shape, int64_t first, int64_t count, const T* patches,
                                               T* map) {
    const int64_t stride = padded_stride<T>(shape.depth());
    over_positions(shape, first, count, [&](int64_t row, int64_t image, int64_t y, int64_t x) {
        const T* from = patches + row * stride;
        over_runs(
            shape, image, y, x,
            [&](int64_t at, int64_t to, int64_t size) { put_run<Write::kAdd>(from + at, size, map + to); },
            [](int64_t, int64_t) {});
    });
}

// Calls body(first row, rows) for chunks of nearly the same size.
template <class T, class Body>
FASTDC_INLINE void over_chunks(const PatchShape& shape, Body body) {
    const int64_t rows = shape.rows(), most = patch_chunk<T>(shape), chunks = (rows + most - 1) / most;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t first = chunk * rows / chunks;
        body(first, (chunk + 1) * rows / chunks - first);
    }
}

// ---- The convolution ----

// A map, or the gradient by z, with the packed weights that it meets; or a tangent of either.
template <class T>
struct PatchTerm {
    const T* at;
    const T* packed;
};

// z = bias + the sum over terms of map times weights; bias may be null. patches [patches_size].
template <class T>
void patch_forward(const PatchShape& shape, const PatchTerm<T>* terms, int64_t count, const T* bias, T* patches, T* z) {
    const int64_t features = shape.features, stride = padded_stride<T>(shape.depth());
    over_chunks<T>(shape, [&](int64_t first, int64_t rows) {
        T* to = z + first * features;
        for (int64_t row = 0; bias && row < rows; ++row) {
            for (int64_t o = 0; o < features; ++o) to[row * features + o] = bias[o];
        }
        for (int64_t term = 0; term < count; ++term) {
            gather_patches(shape, first, rows, terms[term].at, patches);
            multiply_packed<T>(rows, shape.depth(), features, {patches, stride}, terms[term].packed, {to, features},
                               bias || term > 0 ? Write::kAdd : Write::kOver);
        }
    });
}

template <class T>
void patch_weight_gradient(const PatchShape& shape, const T* map, const T* gz, T* patches, T* sums) {
    const int64_t features = shape.features;
    over_chunks<T>(shape, [&](int64_t first, int64_t rows) {
        gather_patches(shape, first, rows, map, patches);
        multiply_transposed<T>(rows, shape.depth(), features, {patches, padded_stride<T>(shape.depth())},
                               {gz + first * features, features}, {sums, features});
    });
}

// gmap = the sum over terms of gz times weights, where the patches were read.
template <class T>
void patch_input_gradient(const PatchShape& shape, const PatchTerm<T>* terms, int64_t count, T* patches, T* gmap) {
    const int64_t features = shape.features, stride = padded_stride<T>(shape.depth());
    clear_run(shape.images * shape.height * shape.width * shape.channels, gmap);
    over_chunks<T>(shape, [&](int64_t first, int64_t rows) {
        for (int64_t term = 0; term < count; ++term) {
            multiply_packed<T>(rows, features, shape.depth(), {terms[term].at + first * features, features},
                               terms[term].packed, {patches, stride}, term > 0 ? Write::kAdd : Write::kOver);
        }
        scatter_patches(shape, first, rows, patches, gmap);
    });
}

}  // namespace
}  // namespace fastdc
