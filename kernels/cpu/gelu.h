// The Gaussian error linear unit, fp32: kernels/reference.py `gelu`.
#pragma once

#include <cstdint>

namespace cdgen {

struct GeluArgs {
    const float* x;  // [count]
    float* out;      // [count]
    int64_t count;
    bool tanh;  // approximates the normal distribution function by a tanh
    int threads;
};

namespace avx2 {
void gelu(const GeluArgs& args);
}
namespace portable {
void gelu(const GeluArgs& args);
}

}  // namespace cdgen
