// Parts of the attention kernels: memory for the weights of one query, their softmax, and the sum
// of the values with these weights. Internal linkage throughout, as in simd.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>

#include "simd.h"

namespace {

struct Float {  // so that unique_ptr is instantiated for each object alone (see simd.h)
    float x;
};

// Returns room for `count` floats, which a thread keeps between calls.
inline float* scratch(int64_t count) {
    static thread_local std::unique_ptr<Float[]> data;
    static thread_local int64_t capacity = 0;
    if (count > capacity) {
        data.reset(new Float[count]);
        capacity = count;
    }
    return &data[0].x;
}

// Turns scores into exp(scale * score - max) in place and returns their sum, by which
// `weighted_values` divides. Weights beyond `length` become 0.
inline float softmax_numerators(float* weights, int64_t length, float scale) {
    const int64_t padded = (length + kLanes - 1) / kLanes * kLanes;
    for (int64_t t = length; t < padded; ++t) weights[t] = -INFINITY;
    f32x8 largest = set1(-INFINITY);
    for (int64_t t = 0; t < padded; t += kLanes) {
        const f32x8 x = load(weights + t) * set1(scale);
        store(weights + t, x);
        largest = max(x, largest);
    }
    const f32x8 shift = set1(max_lane(largest));
    f32x8 total = set1(0.0f);
    for (int64_t t = 0; t < padded; t += kLanes) {
        const f32x8 e = exp_nonpositive(load(weights + t) - shift);
        store(weights + t, e);
        total = total + e;
    }
    return sum(total);
}

// out[d] = sum_t w_t v_t[d] / total for N whole vectors of columns, kept in registers over all t.
// Fetches a row of `next` for each t unless it is null.
template <int N, class S, class T>
inline void weighted_columns(const S* values, const float* w, int64_t length, int64_t head_dim,
                             f32x8 total, T* out, const S* next) {
    f32x8 acc[N];
    for (f32x8& a : acc) a = set1(0.0f);
    for (int64_t t = 0; t < length; ++t) {
        if (next) prefetch<2>(next + t * head_dim, head_dim * static_cast<int64_t>(sizeof(S)));
        const f32x8 weight = set1(w[t]);
        for (int i = 0; i < N; ++i)
            acc[i] = fma(weight, load(values + t * head_dim + i * kLanes), acc[i]);
    }
    for (int i = 0; i < N; ++i) store(out + i * kLanes, acc[i] / total);
}

// out[d] = sum_t w_t v_t[d] / total for fewer columns than a vector has lanes.
template <class S, class T>
inline void weighted_tail(const S* values, const float* w, int64_t length, int64_t head_dim,
                          int64_t columns, f32x8 total, T* out) {
    f32x8 acc = set1(0.0f);
    for (int64_t t = 0; t < length; ++t)
        acc = fma(set1(w[t]), load_tail(values + t * head_dim, columns, 0.0f), acc);
    store_tail(out, acc / total, columns);
}

// out = sum_t w_t v_t / total, in the widest pieces that fit. `next` is what will be read after the
// values, or null.
template <class S, class T>
inline void weighted_values(const S* values, const float* w, float total, int64_t length,
                            int64_t head_dim, T* out, const S* next = nullptr) {
    const f32x8 divisor = set1(total);
    int64_t d = 0;
    for (; head_dim - d >= 8 * kLanes; d += 8 * kLanes)
        weighted_columns<8>(values + d, w, length, head_dim, divisor, out + d,
                            d == 0 ? next : nullptr);
    for (; head_dim - d >= 4 * kLanes; d += 4 * kLanes)
        weighted_columns<4>(values + d, w, length, head_dim, divisor, out + d,
                            d == 0 ? next : nullptr);
    for (; head_dim - d >= kLanes; d += kLanes)
        weighted_columns<1>(values + d, w, length, head_dim, divisor, out + d,
                            d == 0 ? next : nullptr);
    if (d < head_dim)
        weighted_tail(values + d, w, length, head_dim, head_dim - d, divisor, out + d);
}

}  // namespace
