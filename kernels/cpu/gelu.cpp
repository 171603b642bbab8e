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
f32x8 phi_by_tanh(f32x8 x) {
    const f32x8 zero = set1(0.0f), one = set1(1.0f);
    const f32x8 twice = set1(1.59576912f) * x * fma(set1(0.044715f) * x, x, one);
    const f32x8 e = exp_nonpositive(min(twice, zero - twice));
    return select(greater(twice, zero), one, e) / (one + e);
}

// Phi(-|x|) = t Q(t) exp(-x^2 / 2) with t = 1 / (1 + 0.21 |x|). Q is a least-squares fit for |x|
// from 0 to 14; with its coefficients in fp32, the relative error is within 5e-8.
f32x8 phi(f32x8 x) {
    const f32x8 zero = set1(0.0f), one = set1(1.0f);
    const f32x8 low = min(x, zero - x);
    const f32x8 t = one / (one - set1(0.21f) * low);
    f32x8 q = set1(-0.0719444677f);
    for (const float c : {0.284943581f, -0.332967103f, 0.352419645f, -0.0959622562f, 0.125725716f,
                          0.0689759031f, 0.0850991979f, 0.083709769f})
        q = fma(q, t, set1(c));
    const f32x8 tail = t * q * exp_nonpositive(set1(-0.5f) * low * low);
    return select(greater(x, zero), one - tail, tail);
}

f32x8 gelu_of(f32x8 x, bool tanh) { return x * (tanh ? phi_by_tanh(x) : phi(x)); }

template <class T>
void gelu_of_all(const GeluArgs& args) {
    const T* in = static_cast<const T*>(args.x);
    T* out = static_cast<T*>(args.out);
    const int64_t blocks = (args.count + kLanes - 1) / kLanes;
#pragma omp parallel for num_threads(threads_for(2 * args.count, args.threads)) schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t first = block * kLanes, left = args.count - first;
        if (left >= kLanes) {
            store(out + first, gelu_of(load(in + first), args.tanh));
            continue;
        }
        const f32x8 x = load_tail(in + first, left, 0.0f);
        store_tail(out + first, gelu_of(x, args.tanh), left);
    }
}

}  // namespace

void gelu(const GeluArgs& args) {
    with_float(args.dtype, [&](auto number) { gelu_of_all<decltype(number)>(args); });
}

}  // namespace cdgen::CDGEN_ISA
