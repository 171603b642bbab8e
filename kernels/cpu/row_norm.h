// What the norms share. Internal linkage throughout, as in simd.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "simd.h"

namespace {

// x += delta, unless delta is null.
inline void add_delta(float* x, const float* delta, int64_t width) {
    if (!delta) return;
    for (int64_t i = 0; i < width; ++i) x[i] += delta[i];
}

// out = x / sqrt(mean(x^2) + eps) * weight
inline void rms_norm_row(const float* x, const float* weight, int64_t width, float eps,
                         float* out) {
    f32x8 squares = set1(0.0f);
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
    if (i < width) {
        const f32x8 tail = load_tail(x + i, width - i, 0.0f);
        squares = fma(tail, tail, squares);
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + eps);
    for (i = 0; i < width; ++i) out[i] = weight[i] * (x[i] * scale);
}

}  // namespace
