// silu(gate) * up, the two halves of a row, with silu(g) = g * sigmoid(g).
#include "swiglu.h"

#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

// With e = exp(-|g|), sigmoid(g) is 1 / (1 + e) for g > 0, else e / (1 + e): neither overflows.
f32x8 gated(f32x8 gate, f32x8 up) {
    const f32x8 zero = set1(0.0f), one = set1(1.0f);
    const f32x8 e = exp_nonpositive(min(gate, zero - gate));
    return gate * (select(greater(gate, zero), one, e) / (one + e)) * up;
}

void swiglu_row(const float* gate, const float* up, int64_t width, float* out) {
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) store(out + i, gated(load(gate + i), load(up + i)));
    if (i == width) return;
    const int64_t left = width - i;
    const f32x8 last = gated(load_tail(gate + i, left, 0.0f), load_tail(up + i, left, 0.0f));
    store_tail(out + i, last, left);
}

}  // namespace

void swiglu(const SwigluArgs& args) {
    const int64_t width = args.intermediate_size;
    const int64_t floats = 2 * args.rows * width;
#pragma omp parallel for num_threads(threads_for(floats, args.threads)) schedule(static)
    for (int64_t row = 0; row < args.rows; ++row) {
        const float* gate = args.gate_up + row * 2 * width;
        swiglu_row(gate, gate + width, width, args.out + row * width);
    }
}

}  // namespace cdgen::CDGEN_ISA
