// What AVX-512 adds to the eight lanes of AVX2: masked loads and stores for the tail of a row.
#pragma once

#include "simd_avx2.h"

namespace {

inline __mmask8 first_lanes(int64_t count) {
    return count < kLanes ? static_cast<__mmask8>((1 << count) - 1) : static_cast<__mmask8>(0xFF);
}

// Loads the first `count` lanes from memory and puts `fill` in the rest: for the tail of a row.
inline f32x8 load_tail(const float* p, int64_t count, float fill) {
    return {_mm256_mask_loadu_ps(set1(fill).v, first_lanes(count), p)};
}
inline f32x8 load_tail(const bf16* p, int64_t count, float fill) {
    const __mmask8 lanes = first_lanes(count);
    const __m256i words = _mm256_cvtepu16_epi32(_mm_maskz_loadu_epi16(lanes, p));
    const __m256 x = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
    return {_mm256_mask_mov_ps(set1(fill).v, lanes, x)};
}
inline f32x8 load_tail(const fp16* p, int64_t count, float fill) {
    const __mmask8 lanes = first_lanes(count);
    return {_mm256_mask_cvtph_ps(set1(fill).v, lanes, _mm_maskz_loadu_epi16(lanes, p))};
}
inline f32x8 load_tail(const int8_t* p, int64_t count, float fill) {
    const __mmask8 lanes = first_lanes(count);
    const __m256 x = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_maskz_loadu_epi8(lanes, p)));
    return {_mm256_mask_mov_ps(set1(fill).v, lanes, x)};
}
// Stores the first `count` lanes.
inline void store_tail(float* p, f32x8 x, int64_t count) {
    _mm256_mask_storeu_ps(p, first_lanes(count), x.v);
}

}  // namespace
