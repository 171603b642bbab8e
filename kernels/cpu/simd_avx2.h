// Eight fp32 lanes in AVX2 registers. AVX-512 uses the same ones and has more of them.
#pragma once

#include <immintrin.h>

#include "simd_types.h"

namespace {

struct f32x8 {
    __m256 v;
};
inline f32x8 set1(float x) { return {_mm256_set1_ps(x)}; }
inline f32x8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline f32x8 load(const bf16* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}
inline f32x8 load(const fp16* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline f32x8 load(const int8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))};
}
inline float to_float(fp16 x) { return _cvtsh_ss(x.bits); }
inline void store(float* p, f32x8 x) { _mm256_storeu_ps(p, x.v); }
// Rounds to nearest even, as torch does; NaN stays NaN.
inline void store(bf16* p, f32x8 x) {
    const __m256i word = _mm256_castps_si256(x.v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(word, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(word, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256 nan = _mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q);
    const __m256i rounded = _mm256_srli_epi32(
        _mm256_blendv_epi8(up, _mm256_set1_epi32(0x7FC00000), _mm256_castps_si256(nan)), 16);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(p),
        _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)));
}
// Rounds numbers within [-127, 127] to nearest even.
inline void store(int8_t* p, f32x8 x) {
    const __m256i words = _mm256_cvtps_epi32(x.v);
    const __m128i halves =
        _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(halves, halves));
}
inline f32x8 operator+(f32x8 a, f32x8 b) { return {_mm256_add_ps(a.v, b.v)}; }
inline f32x8 operator-(f32x8 a, f32x8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline f32x8 operator*(f32x8 a, f32x8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline f32x8 operator/(f32x8 a, f32x8 b) { return {_mm256_div_ps(a.v, b.v)}; }
inline f32x8 fma(f32x8 a, f32x8 b, f32x8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
// Returns the larger number per lane, and the second operand if either is NaN.
inline f32x8 max(f32x8 a, f32x8 b) { return {_mm256_max_ps(a.v, b.v)}; }
inline f32x8 min(f32x8 a, f32x8 b) { return {_mm256_min_ps(a.v, b.v)}; }
// Returns the upper 24 bits of each word, divided by 2^24: exact, and less than 2^-24 below
// word / 2^32.
inline f32x8 fractions(const uint32_t* words) {
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
    return {_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(w, 8)), _mm256_set1_ps(0x1p-24f))};
}
// Comparisons set all bits of a lane in which they hold, as a float vector.
inline f32x8 unordered(f32x8 a, f32x8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_UNORD_Q)}; }
inline f32x8 greater_equal(f32x8 a, f32x8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
inline f32x8 greater(f32x8 a, f32x8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
inline f32x8 equal(f32x8 a, f32x8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline f32x8 operator|(f32x8 a, f32x8 b) { return {_mm256_or_ps(a.v, b.v)}; }
inline f32x8 operator&(f32x8 a, f32x8 b) { return {_mm256_and_ps(a.v, b.v)}; }
inline f32x8 select(f32x8 mask, f32x8 yes, f32x8 no) {
    return {_mm256_blendv_ps(no.v, yes.v, mask.v)};
}
inline int bits(f32x8 mask) { return _mm256_movemask_ps(mask.v); }
inline f32x8 round_even(f32x8 x) {
    return {_mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// Adds the lanes in the same tree on every instruction set: (04 + 26) + (15 + 37).
inline float sum(f32x8 x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
// Lane j of the result is the sum of the lanes of x[j], added in that tree.
inline f32x8 sum_each(const f32x8 (&x)[kLanes]) {
    const __m256 a = _mm256_hadd_ps(x[0].v, x[1].v), b = _mm256_hadd_ps(x[2].v, x[3].v);
    const __m256 c = _mm256_hadd_ps(x[4].v, x[5].v), d = _mm256_hadd_ps(x[6].v, x[7].v);
    const __m256 low = _mm256_hadd_ps(a, b), high = _mm256_hadd_ps(c, d);
    return {_mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20),
                          _mm256_permute2f128_ps(low, high, 0x31))};
}
inline float max_lane(f32x8 x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
// Lane j of the result is the largest lane of x[j]; none of them is NaN.
inline f32x8 max_each(const f32x8 (&x)[kLanes]) {
    f32x8 two[4], four[2];  // lanes hold the maxima of two and of four lanes
    for (int i = 0; i < 4; ++i)
        two[i] = {_mm256_max_ps(_mm256_unpacklo_ps(x[2 * i].v, x[2 * i + 1].v),
                                _mm256_unpackhi_ps(x[2 * i].v, x[2 * i + 1].v))};
    for (int i = 0; i < 2; ++i)
        four[i] = {_mm256_max_ps(_mm256_shuffle_ps(two[2 * i].v, two[2 * i + 1].v, 0x44),
                                 _mm256_shuffle_ps(two[2 * i].v, two[2 * i + 1].v, 0xEE))};
    return {_mm256_max_ps(_mm256_permute2f128_ps(four[0].v, four[1].v, 0x20),
                          _mm256_permute2f128_ps(four[0].v, four[1].v, 0x31))};
}
// Returns 2^n for whole n in [-126, 127].
inline f32x8 exp2_whole(f32x8 n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(biased, 23))};
}

}  // namespace
