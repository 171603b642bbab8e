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
#include "simd_emulated.h"
#endif

namespace {

// For fewer floats than this, waking other threads costs more than it saves.
constexpr int64_t kGrain = 32768;

inline int threads_for(int64_t floats, int threads) { return floats < kGrain ? 1 : threads; }

// Asks for memory that will be read soon. kNear is 3 for the nearest cache, 2 for the one after it.
template <int kNear>
inline void prefetch(const void* from, int64_t bytes) {
    constexpr int64_t kCacheLine = 64;
    for (int64_t i = 0; i < bytes; i += kCacheLine)
        __builtin_prefetch(static_cast<const char*>(from) + i, 0, kNear);
}

// Stores the first `count` lanes, or all of them.
template <class T>
inline void store_tail(T* p, f32x8 x, int64_t count) {
    T lane[kLanes];
    store(lane, x);
    for (int64_t i = 0; i < kLanes && i < count; ++i) p[i] = lane[i];
}
template <class T>
inline void store(T* p, f32x16 x) {
    store(p, low(x));
    store(p + kLanes, high(x));
}

// Returns `x` in every lane of a vector of the same kind as the second argument.
inline f32x8 spread(float x, f32x8) { return set1(x); }
inline f32x16 spread(float x, f32x16) { return set16(x); }

// Returns e^x for x <= 0 within 2 ulp, 0 below -87, NaN for NaN. It is 2^n * p(r) with
// r = x - n ln 2 in [-ln2/2, ln2/2] and p the Taylor polynomial of degree 7, whose first neglected
// term is 5e-9 there.
template <class V>
inline V exp_nonpositive(V x) {
    const V lowest = spread(-87.0f, x), clamped = max(lowest, x);
    const V n = round_even(clamped * spread(1.44269504f, x));
    V r = fma(n, spread(-0.693359375f, x), clamped);
    r = fma(n, spread(2.12194440e-4f, x), r);
    V p = spread(1.0f / 5040, x);
    for (const float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        p = fma(p, r, spread(c, x));
    return select(greater(lowest, x), spread(0.0f, x), p * exp2_whole(n));
}

}  // namespace
