// Eight fp32 lanes, written twice: with AVX2 intrinsics, and with arrays for any compiler. AVX-512
// takes the AVX2 ones, with 32 registers for them, and adds masks. Sixteen lanes are one register
// of AVX-512 or two vectors of eight: for kernels that are faster with them (docs/decisions.md).
//
// Each kernel source is compiled once per instruction set, in the namespace that CDGEN_ISA names,
// and module.cpp picks one at load time. Two objects must never share an inline function, or the
// linker may give AVX-512 code to the portable path. So everything here has internal linkage, and
// kernels instantiate std templates only over types of their own anonymous namespace. Nor may an
// object initialise a variable at load time, before the choice: its code would run anywhere.
#pragma once

#include <cstdint>
#include <initializer_list>

#if defined(__AVX512VL__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#else
#include "simd_portable.h"
#endif
#ifndef __AVX512VL__
#include "simd_pairs.h"
#endif

namespace {

// For fewer floats than this, waking other threads costs more than it saves.
constexpr int64_t kGrain = 32768;

inline int threads_for(int64_t floats, int threads) { return floats < kGrain ? 1 : threads; }

#ifndef __AVX512VL__
// Loads the first `count` lanes from memory and puts `fill` in the rest: for the tail of a row.
template <class T>
inline f32x8 load_tail(const T* p, int64_t count, float fill) {
    float lane[kLanes];
    for (int i = 0; i < kLanes; ++i) lane[i] = i < count ? to_float(p[i]) : fill;
    return load(lane);
}
// Stores the first `count` lanes.
inline void store_tail(float* p, f32x8 x, int64_t count) {
    float lane[kLanes];
    store(lane, x);
    for (int64_t i = 0; i < count; ++i) p[i] = lane[i];
}
#endif

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
