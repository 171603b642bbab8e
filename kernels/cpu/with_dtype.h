// Calls a kernel's body with a number of the type that a dtype names. Internal linkage throughout,
// as in simd.h.
#pragma once

#include "dtype.h"
#include "simd.h"

namespace {

// For activations and weights of a decoder: float or bf16.
template <class F>
void with_float(cdgen::Dtype dtype, F f) {
    if (dtype == cdgen::Dtype::bf16) return f(bf16{});
    f(float{});
}

// For logits and heads: float, bf16 or fp16.
template <class F>
void with_logits(cdgen::Dtype dtype, F f) {
    if (dtype == cdgen::Dtype::fp16) return f(fp16{});
    with_float(dtype, f);
}

// For KV caches: float, bf16 or int8_t.
template <class F>
void with_stored(cdgen::Dtype dtype, F f) {
    if (dtype == cdgen::Dtype::i8) return f(int8_t{});
    with_float(dtype, f);
}

}  // namespace
