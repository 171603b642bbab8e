// x * Phi(x), Phi being the normal distribution function or its approximation by a tanh. Both are
// computed from their lower tail, so that the result is accurate for large negative x: 1 + erf and
// 1 + tanh would cancel there.
#include "gelu.h"

#include "simd.h"
#include "with_dtype.h"

namespace cdgen::CDGEN_ISA {
namespace {

// Phi(x) is about (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3). That is
// 1 / (1 + exp(-2 u)), and with e = exp(-|2 u|) either 1 / (1 + e) or e / (1 + e).
template <class V>
V phi_by_tanh(V x) {
    const V zero = spread(0.0f, x), one = spread(1.0f, x);
    const V twice = spread(1.59576912f, x) * x * fma(spread(0.044715f, x) * x, x, one);
    const V e = exp_nonpositive(min(twice, zero - twice));
    return select(greater(twice, zero), one, e) / (one + e);
}

// Phi(-|x|) = t Q(t) exp(-x^2 / 2) with t = 1 / (1 + 0.21 |x|). Q is a least-squares fit for |x|
// from 0 to 14; with its coefficients in fp32, the relative error is within 5e-8.
template <class V>
V phi(V x) {
    const V zero = spread(0.0f, x), one = spread(1.0f, x);
    const V low = min(x, zero - x);
    const V t = one / (one - spread(0.21f, x) * low);
    V q = spread(-0.0719444677f, x);
    for (const float c : {0.284943581f, -0.332967103f, 0.352419645f, -0.0959622562f, 0.125725716f,
                          0.0689759031f, 0.0850991979f, 0.083709769f})
        q = fma(q, t, spread(c, x));
    const V tail = t * q * exp_nonpositive(spread(-0.5f, x) * low * low);
    return select(greater(x, zero), one - tail, tail);
}

template <class V>
V gelu_of(V x, bool tanh) {
    return x * (tanh ? phi_by_tanh(x) : phi(x));
}

template <class T>
void gelu_of_all(const GeluArgs& args) {
    const int64_t blocks = (args.count + 15) / 16;
#pragma omp parallel for num_threads(threads_for(2 * args.count, args.threads)) schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
        const T* x = static_cast<const T*>(args.x) + block * 16;
        T* out = static_cast<T*>(args.out) + block * 16;
        const int64_t left = args.count - block * 16;
        if (left >= 16) {
            store(out, gelu_of(load16(x), args.tanh));
            continue;
        }
        for (int64_t i = 0; i < left; i += kLanes)
            store_tail(out + i, gelu_of(load_tail(x + i, left - i, 0.0f), args.tanh), left - i);
    }
}

}  // namespace

void gelu(const GeluArgs& args) {
    with_float(args.dtype, [&](auto number) { gelu_of_all<decltype(number)>(args); });
}

}  // namespace cdgen::CDGEN_ISA
