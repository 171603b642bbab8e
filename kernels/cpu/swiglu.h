// The gated activation of an MLP, fp32: kernels/reference.py `swiglu`.
#pragma once

#include <cstdint>

namespace cdgen {

struct SwigluArgs {
    const float* gate_up;  // [rows, 2 * intermediate_size]
    float* out;            // [rows, intermediate_size]
    int64_t rows, intermediate_size;
    int threads;
};

namespace avx2 {
void swiglu(const SwigluArgs& args);
}
namespace portable {
void swiglu(const SwigluArgs& args);
}

}  // namespace cdgen
