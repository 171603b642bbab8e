// What the norms share. Internal linkage throughout, as in simd.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "simd.h"

namespace {

// x += delta, unless delta is null.
template <class T>
inline void add_delta(float* x, const T* delta, int64_t width) {
    if (!delta) return;
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) store(x + i, load(x + i) + load(delta + i));
    for (; i < width; ++i) x[i] += to_float(delta[i]);
}

// Rounds to T, which leaves a float as it is.
template <class T>
inline f32x8 rounded(f32x8 x) {
    T lane[kLanes];
    store(lane, x);
    return load(lane);
}
template <>
inline f32x8 rounded<float>(f32x8 x) {
    return x;
}

// out = x / sqrt(mean(x^2) + eps) * weight, rounded to X before the weight and to T after it
template <class X, class T>
inline void rms_norm_row(const X* x, const T* weight, int64_t width, float eps, T* out) {
    f32x8 squares = set1(0.0f);
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
    if (i < width) {
        const f32x8 tail = load_tail(x + i, width - i, 0.0f);
        squares = fma(tail, tail, squares);
    }
    const float mean = sum(squares) / static_cast<float>(width);
    const f32x8 scale = set1(1.0f / std::sqrt(mean + eps));
    for (i = 0; i + kLanes <= width; i += kLanes)
        store(out + i, load(weight + i) * rounded<X>(load(x + i) * scale));
    if (i == width) return;
    const f32x8 normed = rounded<X>(load_tail(x + i, width - i, 0.0f) * scale);
    store_tail(out + i, load_tail(weight + i, width - i, 0.0f) * normed, width - i);
}

}  // namespace
