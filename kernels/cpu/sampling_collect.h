// Steps 1 and 2 of the sampler: one pass over GOOD's logits, then the list of plausible tokens.
#pragma once

#include <cstdint>

#include "sampling_candidates.h"
#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

constexpr int64_t kTile = 16 * kLanes;  // columns per tile of the scan

struct Scan {
    float max;
    bool has_nan;
};

template <class T>
Scan scan(const T* good, int64_t vocab, float* tile_max) {
    f32x8 row_max = set1(-kInf), nan = set1(0.0f);
    int64_t v = 0;
    for (; v + kTile <= vocab; v += kTile, tile_max += kLanes) {
        // Four chains: in one, each maximum would wait for the last and halve the reading speed.
        f32x8 a = set1(-kInf), b = a, c = a, d = a;
        for (int64_t i = 0; i < kTile; i += 4 * kLanes) {
            const T* g = good + v + i;
            const f32x8 w = load(g), x = load(g + kLanes);
            const f32x8 y = load(g + 2 * kLanes), z = load(g + 3 * kLanes);
            nan = nan | (unordered(w, x) | unordered(y, z));
            a = max(w, a), b = max(x, b), c = max(y, c), d = max(z, d);
        }
        const f32x8 best = max(max(a, b), max(c, d));
        store(tile_max, best);
        row_max = max(row_max, best);
    }
    f32x8 best = set1(-kInf);
    for (; v < vocab; v += kLanes) {
        const f32x8 x = load_tail(good + v, vocab - v, -kInf);
        nan = nan | unordered(x, x);
        best = max(x, best);
    }
    store(tile_max, best);
    return {max_lane(max(row_max, best)), bits(nan) != 0};
}

template <class T>
int64_t collect(const T* good, int64_t vocab, float threshold, const float* tile_max, int32_t* ids,
                float* values) {
    const f32x8 bound = set1(threshold), never = set1(-kInf);
    int64_t count = 0;
    for (int64_t tile = 0; tile < vocab; tile += kTile, tile_max += kLanes) {
        if (!bits(greater_equal(load(tile_max), bound))) continue;
        const int64_t end = tile + kTile < vocab ? tile + kTile : vocab;
        for (int64_t v = tile; v < end; v += kLanes) {
            const f32x8 x =
                v + kLanes <= end ? load(good + v) : load_tail(good + v, end - v, -kInf);
            int hits = bits(greater_equal(x, bound) & greater(x, never));
            if (hits == 0) continue;
            if (hits == 0xFF) {
                store(values + count, x);
                for (int i = 0; i < kLanes; ++i) ids[count + i] = static_cast<int32_t>(v + i);
                count += kLanes;
                continue;
            }
            float lane[kLanes];
            store(lane, x);
            for (; hits; hits &= hits - 1) {
                const int i = __builtin_ctz(static_cast<unsigned>(hits));
                ids[count] = static_cast<int32_t>(v + i);
                values[count++] = lane[i];
            }
        }
    }
    return count;
}

}  // namespace
}  // namespace cdgen::CDGEN_ISA
