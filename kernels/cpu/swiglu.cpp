// silu(gate) * up, the two halves of a row, with silu(g) = g * sigmoid(g).
#include "swiglu.h"

#include "simd.h"
#include "with_dtype.h"

namespace cdgen::CDGEN_ISA {
namespace {

// With e = exp(-|g|), sigmoid(g) is 1 / (1 + e) for g > 0, else e / (1 + e): neither overflows.
template <class V>
V gated(V gate, V up) {
    const V zero = spread(0.0f, gate), one = spread(1.0f, gate);
    const V e = exp_nonpositive(min(gate, zero - gate));
    return gate * (select(greater(gate, zero), one, e) / (one + e)) * up;
}

template <class T>
void gate_row(const T* gate, const T* up, int64_t width, T* out) {
    int64_t i = 0;
    for (; i + 16 <= width; i += 16) store(out + i, gated(load16(gate + i), load16(up + i)));
    for (; i < width; i += kLanes) {
        const f32x8 g = load_tail(gate + i, width - i, 0.0f);
        store_tail(out + i, gated(g, load_tail(up + i, width - i, 0.0f)), width - i);
    }
}

template <class T>
void gate_rows(const SwigluArgs& args) {
    const int64_t width = args.intermediate_size;
    const int64_t floats = 2 * args.rows * width;
#pragma omp parallel for num_threads(threads_for(floats, args.threads)) schedule(static)
    for (int64_t row = 0; row < args.rows; ++row) {
        const T* gate = static_cast<const T*>(args.gate_up) + row * 2 * width;
        gate_row(gate, gate + width, width, static_cast<T*>(args.out) + row * width);
    }
}

}  // namespace

void swiglu(const SwigluArgs& args) {
    with_float(args.dtype, [&](auto number) { gate_rows<decltype(number)>(args); });
}

}  // namespace cdgen::CDGEN_ISA
