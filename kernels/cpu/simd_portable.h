// Eight fp32 lanes in an array, for any compiler and processor.
#pragma once

#include <cmath>
#include <cstring>

#include "simd_types.h"

namespace {

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
inline void store(bf16* p, f32x8 x) {
    for (int i = 0; i < kLanes; ++i) {
        const uint32_t word = word_of(x.v[i]);
        const uint32_t rounded = x.v[i] == x.v[i] ? word + 0x7FFF + (word >> 16 & 1) : 0x7FC00000;
        p[i].bits = static_cast<uint16_t>(rounded >> 16);
    }
}
// Rounds numbers within [-127, 127] to nearest even.
inline void store(int8_t* p, f32x8 x) {
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(std::nearbyint(x.v[i]));
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
inline f32x8 max_each(const f32x8 (&x)[kLanes]) {
    return lanes([&](int i) { return max_lane(x[i]); });
}
inline f32x8 exp2_whole(f32x8 n) {
    return lanes([&](int i) {
        return float_of(static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23);
    });
}

}  // namespace
