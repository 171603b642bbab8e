// What AVX-512 adds to the eight lanes of AVX2: masked loads and stores for the tail of a row, and
// sixteen lanes in a register.
#pragma once

#include "simd_avx2.h"

namespace {

inline __mmask8 first_lanes(int64_t count) {
    return count < kLanes ? static_cast<__mmask8>((1 << count) - 1) : static_cast<__mmask8>(0xFF);
}

// Loads the first `count` lanes, or all of them, and puts `fill` in the rest: for the tail of a
// row.
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
// Stores the first `count` lanes, or all of them.
inline void store_tail(float* p, f32x8 x, int64_t count) {
    _mm256_mask_storeu_ps(p, first_lanes(count), x.v);
}

// GCC 12 warns of uninitialised variables inside those intrinsics that have no mask.
constexpr __mmask16 kAll = 0xFFFF;

struct f32x16 {
    __m512 v;
};
struct mask16 {
    __mmask16 m;
};

inline f32x16 set16(float x) { return {_mm512_set1_ps(x)}; }
inline f32x16 load16(const float* p) { return {_mm512_loadu_ps(p)}; }
inline f32x16 load16(const bf16* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m512i words = _mm512_maskz_cvtepu16_epi32(kAll, half);
    return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, words, 16))};
}
inline f32x16 load16(const fp16* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_maskz_cvtph_ps(kAll, half)};
}
inline void store(float* p, f32x16 x) { _mm512_storeu_ps(p, x.v); }
inline f32x8 low(f32x16 x) { return {_mm512_maskz_extractf32x8_ps(0xFF, x.v, 0)}; }
inline f32x8 high(f32x16 x) { return {_mm512_maskz_extractf32x8_ps(0xFF, x.v, 1)}; }
inline f32x16 operator+(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline f32x16 operator-(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline f32x16 operator*(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline f32x16 operator/(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline f32x16 max(f32x16 a, f32x16 b) { return {_mm512_maskz_max_ps(kAll, a.v, b.v)}; }
inline f32x16 min(f32x16 a, f32x16 b) { return {_mm512_maskz_min_ps(kAll, a.v, b.v)}; }
inline mask16 unordered(f32x16 a, f32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_UNORD_Q)}; }
inline mask16 greater_equal(f32x16 a, f32x16 b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)};
}
inline mask16 greater(f32x16 a, f32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline mask16 operator|(mask16 a, mask16 b) { return {static_cast<__mmask16>(a.m | b.m)}; }
inline f32x16 select(mask16 mask, f32x16 yes, f32x16 no) {
    return {_mm512_mask_blend_ps(mask.m, no.v, yes.v)};
}
inline uint32_t bits(mask16 mask) { return mask.m; }
inline f32x16 round_even(f32x16 x) {
    return {_mm512_maskz_roundscale_ps(kAll, x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline f32x16 exp2_whole(f32x16 n) {
    const __m512i whole = _mm512_maskz_cvtps_epi32(kAll, n.v);
    const __m512i biased = _mm512_add_epi32(whole, _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, biased, 23))};
}

}  // namespace
