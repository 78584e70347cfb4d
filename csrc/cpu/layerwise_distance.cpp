#include "cpu/layerwise_distance.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/pages.h"
#include "cpu/threads.h"

namespace fastdc {
namespace {

constexpr int64_t kElementSize[] = {4, 8, 2, 2};  // by Dtype

const DistanceKernels& kernels_for(Dtype dtype) {
#if defined(__x86_64__)
    switch (instruction_set()) {
        case InstructionSet::avx512:
            return avx512::distance_kernels[static_cast<int>(dtype)];
        case InstructionSet::avx2:
            return avx2::distance_kernels[static_cast<int>(dtype)];
        case InstructionSet::baseline:
            break;
    }
#endif
    return baseline::distance_kernels[static_cast<int>(dtype)];
}

// A tile, and where its elements of the first class lie; strides are bytes from class to class.
struct Place {
    Tile tile;
    const char* synthetic;
    int64_t synthetic_stride;
    const char* real;
    int64_t real_stride;
    char* cotangent;
    int64_t cotangent_stride;
};

std::vector<Place> places_of(const DistanceArguments& all) {
    const int64_t bytes = kElementSize[static_cast<int>(all.dtype)];
    std::vector<Place> places;
    places.reserve(static_cast<size_t>(all.tile_count));
    auto part = all.parts.begin();
    for (const Tile* tile = all.tiles; tile != all.tiles + all.tile_count; ++tile) {
        while (tile->offset >= part->first + part->size && part + 1 != all.parts.end()) ++part;
        const int64_t begin = (tile->offset - part->first) * bytes;
        places.push_back({*tile, static_cast<const char*>(part->synthetic) + begin, part->synthetic_stride * bytes,
                          static_cast<const char*>(part->real) + begin, part->real_stride * bytes,
                          static_cast<char*>(part->cotangent) + begin, part->size * bytes});
    }
    return places;
}

// One (class, tile) pair: where its elements lie.
struct Piece {
    Piece(const std::vector<Place>& places, int64_t index)
        : Piece(places[index % places.size()], index / places.size()) {}
    Piece(const Place& place, int64_t c)
        : tile(place.tile),
          count(tile.rows ? tile.rows * tile.row_length : tile.row_length),
          synthetic(place.synthetic + c * place.synthetic_stride),
          real(place.real + c * place.real_stride),
          cotangent(place.cotangent + c * place.cotangent_stride) {}

    const Tile& tile;
    const int64_t count;
    const char* synthetic;
    const char* real;
    char* cotangent;
};

void clear(const DistanceArguments& all, const Piece& piece) {
    std::memset(piece.cotangent, 0, static_cast<size_t>(piece.count * kElementSize[static_cast<int>(all.dtype)]));
}

void write_distance(const DistanceArguments& all, int64_t c, double value) {
    if (all.dtype == Dtype::float64) {
        static_cast<double*>(all.distance)[c] = value;
    } else {
        static_cast<float*>(all.distance)[c] = static_cast<float>(value);
    }
}

// Calls body(i, piece) for every (class, tile) pair. A thread takes a run of neighbours at a time: on scattered pairs,
// what one core fetches ahead is what another is writing.
template <class Body>
void for_each_piece(const DistanceArguments& all, int threads, const Body& body) {
    constexpr int64_t kMostRuns = 32;
    const std::vector<Place> places = places_of(all);
    const int64_t pieces = all.classes * all.tile_count, runs = std::min(pieces, kMostRuns);
    parallel_for(runs, threads, [&](int64_t run) {
        for (int64_t i = run * pieces / runs; i < (run + 1) * pieces / runs; ++i) body(i, Piece(places, i));
    });
}

// Every row on its own: one pass over all pieces.
void match_rows(const DistanceArguments& all, DistanceKernels::MatchRows kernel, int threads) {
    std::vector<double> parts(static_cast<size_t>(all.classes * all.tile_count));
    for_each_piece(all, threads, [&](int64_t i, const Piece& piece) {
        if (piece.tile.rows) {
            parts[i] = kernel(piece.synthetic, piece.real, piece.cotangent, piece.tile.rows, piece.tile.row_length);
        } else {
            clear(all, piece);
        }
    });
    for (int64_t c = 0; c < all.classes; ++c) {
        double distance = 0;
        for (int64_t t = 0; t < all.tile_count; ++t) distance += parts[c * all.tile_count + t];
        write_distance(all, c, distance);
    }
}

// All rows of a class joined into one: a pass for the sums, a pass for the cotangent.
void match_joined(const DistanceArguments& all, const DistanceKernels& kernels, int threads) {
    std::vector<RowSums> parts(static_cast<size_t>(all.classes * all.tile_count));
    for_each_piece(all, threads, [&](int64_t i, const Piece& piece) {
        if (piece.tile.rows) parts[i] = kernels.sums(piece.synthetic, piece.real, piece.count);
    });
    std::vector<RowResult> results(static_cast<size_t>(all.classes));
    for (int64_t c = 0; c < all.classes; ++c) {
        RowSums sums{};
        bool any = false;  // a layout without rows has the distance 0, not that of a row of zeros
        for (int64_t t = 0; t < all.tile_count; ++t) {
            const RowSums& part = parts[c * all.tile_count + t];
            sums = {sums.dot + part.dot, sums.synthetic + part.synthetic, sums.real + part.real};
            any = any || all.tiles[t].rows > 0;
        }
        if (any) results[c] = cosine_result(sums);
        write_distance(all, c, results[c].distance);
    }
    for_each_piece(all, threads, [&](int64_t i, const Piece& piece) {
        const RowResult& result = results[i / all.tile_count];
        if (piece.tile.rows) {
            kernels.write(piece.synthetic, piece.real, piece.cotangent, piece.count, result.along, result.across);
        } else {
            clear(all, piece);
        }
    });
}

}  // namespace

void layerwise_distance(const DistanceArguments& arguments, int threads) {
    const DistanceKernels& kernels = kernels_for(arguments.dtype);
    for (const GradientPart& part : arguments.parts) {
        const int64_t bytes = arguments.classes * part.size * kElementSize[static_cast<int>(arguments.dtype)];
        prefer_large_pages(part.cotangent, static_cast<size_t>(bytes));
    }
    if (arguments.metric == Metric::cosine) return match_joined(arguments, kernels, threads);
    for (size_t i = 0; i < kMetricCount; ++i) {
        if (kMetrics[i].value == arguments.metric) return match_rows(arguments, kernels.rows[i], threads);
    }
    throw std::invalid_argument("metric " + std::to_string(static_cast<int>(arguments.metric)) + " is not known");
}

}  // namespace fastdc
