// The Gaussian error linear unit, fp32: kernels/reference.py `gelu`.
#pragma once

#include <cstdint>

namespace cdgen {

struct GeluArgs {
    const float* x;  // [count]
    float* out;      // [count]
    int64_t count;
    bool tanh;  // the approximation by a tanh, else the normal distribution itself
    int threads;
};

namespace avx2 {
void gelu(const GeluArgs& args);
}  // namespace avx2
namespace portable {
void gelu(const GeluArgs& args);
}  // namespace portable

}  // namespace cdgen
