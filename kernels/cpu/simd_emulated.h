// What AVX-512 has as instructions (simd_avx512.h), with the same bits, where there are none:
// masked loads, and sixteen lanes as two vectors of eight.
#pragma once

#include "simd_types.h"

namespace {

// Loads the first `count` lanes, or all of them, and puts `fill` in the rest: for the tail of a
// row.
template <class T>
inline f32x8 load_tail(const T* p, int64_t count, float fill) {
    float lane[kLanes];
    for (int i = 0; i < kLanes; ++i) lane[i] = i < count ? to_float(p[i]) : fill;
    return load(lane);
}
struct f32x16 {
    f32x8 low, high;
};
struct mask16 {
    f32x8 low, high;
};

inline f32x16 set16(float x) { return {set1(x), set1(x)}; }
template <class T>
inline f32x16 load16(const T* p) {
    return {load(p), load(p + kLanes)};
}
inline f32x8 low(f32x16 x) { return x.low; }
inline f32x8 high(f32x16 x) { return x.high; }
inline f32x16 operator+(f32x16 a, f32x16 b) { return {a.low + b.low, a.high + b.high}; }
inline f32x16 operator-(f32x16 a, f32x16 b) { return {a.low - b.low, a.high - b.high}; }
inline f32x16 operator*(f32x16 a, f32x16 b) { return {a.low * b.low, a.high * b.high}; }
inline f32x16 operator/(f32x16 a, f32x16 b) { return {a.low / b.low, a.high / b.high}; }
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
    return {fma(a.low, b.low, c.low), fma(a.high, b.high, c.high)};
}
inline f32x16 max(f32x16 a, f32x16 b) { return {max(a.low, b.low), max(a.high, b.high)}; }
inline f32x16 min(f32x16 a, f32x16 b) { return {min(a.low, b.low), min(a.high, b.high)}; }
inline mask16 unordered(f32x16 a, f32x16 b) {
    return {unordered(a.low, b.low), unordered(a.high, b.high)};
}
inline mask16 greater_equal(f32x16 a, f32x16 b) {
    return {greater_equal(a.low, b.low), greater_equal(a.high, b.high)};
}
inline mask16 greater(f32x16 a, f32x16 b) {
    return {greater(a.low, b.low), greater(a.high, b.high)};
}
inline mask16 operator|(mask16 a, mask16 b) { return {a.low | b.low, a.high | b.high}; }
inline f32x16 select(mask16 mask, f32x16 yes, f32x16 no) {
    return {select(mask.low, yes.low, no.low), select(mask.high, yes.high, no.high)};
}
inline uint32_t bits(mask16 mask) {
    return static_cast<uint32_t>(bits(mask.low) | bits(mask.high) << kLanes);
}
inline f32x16 round_even(f32x16 x) { return {round_even(x.low), round_even(x.high)}; }
inline f32x16 exp2_whole(f32x16 n) { return {exp2_whole(n.low), exp2_whole(n.high)}; }

}  // namespace
