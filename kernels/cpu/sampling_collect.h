// Steps 1 and 2 of the sampler: one pass over GOOD's logits, then the list of plausible tokens.
#pragma once

#include <cstdint>

#include "sampling_candidates.h"
#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

constexpr int64_t kTile = 16 * kLanes;      // columns that share a maximum
constexpr int64_t kBlock = kLanes * kTile;  // columns whose maxima make one vector

// How far ahead of the scan to ask for a row, in bytes: without it, a read from the shared cache
// takes a fifth longer. 2 to 8 KiB are equally good.
constexpr int64_t kAhead = 4096;

struct Scan {
    float max;
    bool has_nan;
};

// Returns a vector whose largest lane is the maximum of a tile, and notes NaN.
template <class T>
f32x8 max_of_tile(const T* tile, mask16& nan) {
    f32x16 best = set16(-kInf);
    for (int64_t i = 0; i < kTile; i += 64) {
        const T* g = tile + i;
        prefetch<3>(reinterpret_cast<const char*>(g) + kAhead, 64 * sizeof(T));
        const f32x16 w = load16(g), x = load16(g + 16), y = load16(g + 32), z = load16(g + 48);
        nan = nan | (unordered(w, x) | unordered(y, z));
        best = max(max(max(w, x), max(y, z)), best);
    }
    return max(low(best), high(best));
}

// Finds the maximum of a row, and that of each of its tiles.
template <class T>
Scan scan(const T* good, int64_t vocab, float* tile_max) {
    f32x8 row_max = set1(-kInf), tail_nan = set1(0.0f);
    mask16 nan = unordered(set16(0.0f), set16(0.0f));
    int64_t v = 0;
    for (; v + kBlock <= vocab; v += kBlock, tile_max += kLanes) {
        f32x8 best[kLanes];
        for (int64_t tile = 0; tile < kLanes; ++tile)
            best[tile] = max_of_tile(good + v + tile * kTile, nan);
        const f32x8 eight = max_each(best);
        store(tile_max, eight);
        row_max = max(row_max, eight);
    }
    for (; v < vocab; v += kTile) {
        f32x8 best = set1(-kInf);
        for (int64_t i = v; i < vocab && i < v + kTile; i += kLanes) {
            const f32x8 x =
                i + kLanes <= vocab ? load(good + i) : load_tail(good + i, vocab - i, -kInf);
            tail_nan = tail_nan | unordered(x, x);
            best = max(x, best);
        }
        row_max = max(row_max, best);
        *tile_max++ = max_lane(best);
    }
    return {max_lane(row_max), (bits(nan) | bits(tail_nan)) != 0};
}

// Returns bit i for each of the next 64 numbers that is `bound` or more. There are `count` left.
template <class T>
uint64_t reach(const T* x, int64_t count, float bound) {
    uint64_t hits = 0;
    if (count >= 64) {
        for (int i = 0; i < 64; i += 16)
            hits |= static_cast<uint64_t>(bits(greater_equal(load16(x + i), set16(bound)))) << i;
        return hits;
    }
    for (int64_t i = 0; i < count; i += kLanes) {
        const f32x8 some = load_tail(x + i, count - i, -kInf);
        hits |= static_cast<uint64_t>(bits(greater_equal(some, set1(bound)))) << i;
    }
    return hits;
}

// Lists the finite logits that are `threshold` or more. Branches follow tokens that are found, not
// tiles that are not: which tiles have one cannot be predicted.
template <class T>
int64_t collect(const T* good, int64_t vocab, float threshold, const float* tile_max, int32_t* ids,
                float* values) {
    const float bound = threshold < kLowest ? kLowest : threshold;
    const int64_t tiles = (vocab + kTile - 1) / kTile;
    int64_t count = 0;
    for (int64_t first = 0; first < tiles; first += 64) {
        for (uint64_t found = reach(tile_max + first, tiles - first, bound); found;
             found &= found - 1) {
            const int64_t begin = (first + __builtin_ctzll(found)) * kTile;
            const int64_t end = begin + kTile < vocab ? begin + kTile : vocab;
            for (int64_t v = begin; v < end; v += 64) {
                uint64_t hits = reach(good + v, end - v, bound);
                if (hits == ~uint64_t{0}) {  // as everywhere in a flat row
                    for (int i = 0; i < 64; ++i) ids[count + i] = static_cast<int32_t>(v + i);
                    for (int i = 0; i < 64; i += kLanes)
                        store(values + count + i, load(good + v + i));
                    count += 64;
                    continue;
                }
                for (; hits; hits &= hits - 1) {
                    const int64_t id = v + __builtin_ctzll(hits);
                    ids[count] = static_cast<int32_t>(id);
                    values[count++] = to_float(good[id]);
                }
            }
        }
    }
    return count;
}

}  // namespace
}  // namespace cdgen::CDGEN_ISA
