// The Gaussian error linear unit, fp32: kernels/reference.py `gelu`.
#pragma once

#include <cstdint>

#include "instruction_sets.h"

namespace cdgen {

struct GeluArgs {
    const float* x;  // [count]
    float* out;      // [count]
    int64_t count;
    bool tanh;  // approximates the normal distribution function by a tanh
    int threads;
};

CDGEN_DECLARE(void gelu(const GeluArgs& args));

}  // namespace cdgen
