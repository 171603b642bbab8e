// Eight fp32 lanes, written twice: with AVX2 intrinsics, and with arrays for any compiler.
//
// Each kernel source is compiled once per instruction set, in the namespace that CDGEN_ISA names,
// and module.cpp picks one at load time. Two objects must never share an inline function, or the
// linker may give AVX2 code to the portable path. So everything here has internal linkage, and
// kernels instantiate std templates only over types of their own anonymous namespace.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

constexpr int kLanes = 8;

// For fewer floats than this, waking other threads costs more than it saves.
constexpr int64_t kGrain = 32768;

inline int threads_for(int64_t floats, int threads) { return floats < kGrain ? 1 : threads; }

struct bf16 {
    uint16_t bits;
};
struct fp16 {
    uint16_t bits;
};

inline float to_float(float x) { return x; }

inline float to_float(bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

#ifdef __AVX2__

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
inline float to_float(fp16 x) { return _cvtsh_ss(x.bits); }
inline void store(float* p, f32x8 x) { _mm256_storeu_ps(p, x.v); }
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
// Returns 2^n for whole n in [-126, 127].
inline f32x8 exp2_whole(f32x8 n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(biased, 23))};
}

#else

struct f32x8 {
    float v[kLanes];
};

template <class F>
inline f32x8 lanes(F f) {
    f32x8 out;
    for (int i = 0; i < kLanes; ++i) out.v[i] = f(i);
    return out;
}
inline float mask_lane(bool on) {
    const uint32_t word = on ? 0xFFFFFFFFu : 0u;
    float out;
    std::memcpy(&out, &word, 4);
    return out;
}
inline uint32_t word_of(float x) {
    uint32_t out;
    std::memcpy(&out, &x, 4);
    return out;
}
inline float float_of(uint32_t x) {
    float out;
    std::memcpy(&out, &x, 4);
    return out;
}
inline float to_float(fp16 x) {
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
    const uint32_t exponent = (x.bits >> 10) & 31, fraction = x.bits & 0x3FF;
    if (exponent == 31) return float_of(sign | 0x7F800000u | (fraction << 13));
    if (exponent) return float_of(sign | ((exponent + 112) << 23) | (fraction << 13));
    const float subnormal = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -subnormal : subnormal;
}
template <class T>
inline f32x8 load(const T* p) {
    return lanes([&](int i) { return to_float(p[i]); });
}
inline f32x8 set1(float x) {
    return lanes([&](int) { return x; });
}
inline void store(float* p, f32x8 x) { std::memcpy(p, x.v, sizeof x.v); }
inline f32x8 fractions(const uint32_t* words) {
    return lanes([&](int i) { return static_cast<float>(words[i] >> 8) * 0x1p-24f; });
}
inline f32x8 operator+(f32x8 a, f32x8 b) {
    return lanes([&](int i) { return a.v[i] + b.v[i]; });
}
inline f32x8 operator-(f32x8 a, f32x8 b) {
    return lanes([&](int i) { return a.v[i] - b.v[i]; });
}
inline f32x8 operator*(f32x8 a, f32x8 b) {
    return lanes([&](int i) { return a.v[i] * b.v[i]; });
}
inline f32x8 operator/(f32x8 a, f32x8 b) {
    return lanes([&](int i) { return a.v[i] / b.v[i]; });
}
inline f32x8 fma(f32x8 a, f32x8 b, f32x8 c) { return a * b + c; }
inline f32x8 max(f32x8 a, f32x8 b) {
    return lanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline f32x8 min(f32x8 a, f32x8 b) {
    return lanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline f32x8 unordered(f32x8 a, f32x8 b) {
    return lanes([&](int i) { return mask_lane(a.v[i] != a.v[i] || b.v[i] != b.v[i]); });
}
inline f32x8 greater_equal(f32x8 a, f32x8 b) {
    return lanes([&](int i) { return mask_lane(a.v[i] >= b.v[i]); });
}
inline f32x8 greater(f32x8 a, f32x8 b) {
    return lanes([&](int i) { return mask_lane(a.v[i] > b.v[i]); });
}
inline f32x8 equal(f32x8 a, f32x8 b) {
    return lanes([&](int i) { return mask_lane(a.v[i] == b.v[i]); });
}
inline f32x8 operator|(f32x8 a, f32x8 b) {
    return lanes([&](int i) { return float_of(word_of(a.v[i]) | word_of(b.v[i])); });
}
inline f32x8 operator&(f32x8 a, f32x8 b) {
    return lanes([&](int i) { return float_of(word_of(a.v[i]) & word_of(b.v[i])); });
}
inline f32x8 select(f32x8 mask, f32x8 yes, f32x8 no) {
    return lanes([&](int i) { return word_of(mask.v[i]) >> 31 ? yes.v[i] : no.v[i]; });
}
inline int bits(f32x8 mask) {
    int out = 0;
    for (int i = 0; i < kLanes; ++i) out |= static_cast<int>(word_of(mask.v[i]) >> 31) << i;
    return out;
}
inline f32x8 round_even(f32x8 x) {
    return lanes([&](int i) { return std::nearbyint(x.v[i]); });
}
inline float sum(f32x8 x) {
    return ((x.v[0] + x.v[4]) + (x.v[2] + x.v[6])) + ((x.v[1] + x.v[5]) + (x.v[3] + x.v[7]));
}
inline f32x8 sum_each(const f32x8 (&x)[kLanes]) {
    return lanes([&](int i) { return sum(x[i]); });
}
inline float max_lane(f32x8 x) {
    float out = x.v[0];
    for (int i = 1; i < kLanes; ++i) out = x.v[i] > out ? x.v[i] : out;
    return out;
}
inline f32x8 exp2_whole(f32x8 n) {
    return lanes([&](int i) {
        return float_of(static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23);
    });
}

#endif

// Loads the first `count` lanes from memory and puts `fill` in the rest: for the tail of a row.
template <class T>
inline f32x8 load_tail(const T* p, int64_t count, float fill) {
    float lane[kLanes];
    for (int i = 0; i < kLanes; ++i) lane[i] = i < count ? to_float(p[i]) : fill;
    return load(lane);
}

// Returns e^x for x <= 0 within 2 ulp, 0 below -87, NaN for NaN. It is 2^n * p(r) with
// r = x - n ln 2 in [-ln2/2, ln2/2] and p the Taylor polynomial of degree 7, whose first neglected
// term is 5e-9 there.
inline f32x8 exp_nonpositive(f32x8 x) {
    const f32x8 lowest = set1(-87.0f), clamped = max(lowest, x);
    const f32x8 n = round_even(clamped * set1(1.44269504f));
    f32x8 r = fma(n, set1(-0.693359375f), clamped);
    r = fma(n, set1(2.12194440e-4f), r);
    f32x8 p = set1(1.0f / 5040);
    for (const float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        p = fma(p, r, set1(c));
    return select(greater(lowest, x), set1(0.0f), p * exp2_whole(n));
}

}  // namespace
