// silu(gate) * up, the two halves of a row, with silu(g) = g * sigmoid(g).
#include "swiglu.h"

#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

// With e = exp(-|g|), sigmoid(g) is 1 / (1 + e) for g > 0, else e / (1 + e): neither overflows.
template <class V>
V gated(V gate, V up) {
    const V zero = spread(0.0f, gate), one = spread(1.0f, gate);
    const V e = exp_nonpositive(min(gate, zero - gate));
    return gate * (select(greater(gate, zero), one, e) / (one + e)) * up;
}

void swiglu_row(const float* gate, const float* up, int64_t width, float* out) {
    int64_t i = 0;
    for (; i + 16 <= width; i += 16) store(out + i, gated(load16(gate + i), load16(up + i)));
    for (; i < width; i += kLanes) {
        const f32x8 g = load_tail(gate + i, width - i, 0.0f);
        store_tail(out + i, gated(g, load_tail(up + i, width - i, 0.0f)), width - i);
    }
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
