// The numbers of one head, rounded to the format in which they are kept: kernels/reference.py
// `stored` and `quantized`. Internal linkage throughout, as in simd.h.
#pragma once

#include <cstdint>

#include "simd.h"

namespace {

// out = x, rounded to nearest even.
template <class X, class T>
inline void store_head(const X* x, int64_t head_dim, T* out) {
    int64_t i = 0;
    for (; i + kLanes <= head_dim; i += kLanes) store(out + i, load(x + i));
    if (i < head_dim) store_tail(out + i, load_tail(x + i, head_dim - i, 0.0f), head_dim - i);
}

// Returns max |x_i| / 127, or NaN if a number is not finite.
template <class X>
inline float int8_scale(const X* x, int64_t head_dim) {
    const f32x8 zero = set1(0.0f);
    f32x8 largest = zero, poison = zero;  // 0 * x is NaN unless x is finite
    const auto include = [&](f32x8 part) {
        largest = max(max(part, zero - part), largest);
        poison = fma(part, zero, poison);
    };
    int64_t i = 0;
    for (; i + kLanes <= head_dim; i += kLanes) include(load(x + i));
    if (i < head_dim) include(load_tail(x + i, head_dim - i, 0.0f));
    return max_lane(largest) / 127.0f + sum(poison);
}

// out = x / scale, rounded to nearest even, and 0 under a scale of 0 or NaN.
template <class X>
inline void quantize(const X* x, int64_t head_dim, float scale, int8_t* out) {
    if (!(scale > 0.0f)) {
        for (int64_t i = 0; i < head_dim; ++i) out[i] = 0;
        return;
    }
    const f32x8 divisor = set1(scale), most = set1(127.0f), least = set1(-127.0f);
    int64_t i = 0;
    for (; i + kLanes <= head_dim; i += kLanes)
        store(out + i, min(max(load(x + i) / divisor, least), most));
    if (i == head_dim) return;
    const f32x8 last = load_tail(x + i, head_dim - i, 0.0f) / divisor;
    store_tail(out + i, min(max(last, least), most), head_dim - i);
}

// Writes one head to entry `entry` of a cache whose numbers are S.
template <class S, class X>
inline void cache_head(const X* x, int64_t head_dim, void* cache, float* scales, int64_t entry) {
    S* out = static_cast<S*>(cache) + entry * head_dim;
    if constexpr (sizeof(S) == 1) {
        scales[entry] = int8_scale(x, head_dim);
        quantize(x, head_dim, scales[entry], out);
    } else {
        store_head(x, head_dim, out);
    }
}

}  // namespace
