// The Gaussian error linear unit, in fp32: kernels/reference.py `gelu`.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "instruction_sets.h"

namespace cdgen {

struct GeluArgs {
    const void* x;  // [count]
    void* out;      // [count]
    Dtype dtype;    // of both
    int64_t count;
    bool tanh;  // approximates the normal distribution function by a tanh
    int threads;
};

CDGEN_DECLARE(void gelu(const GeluArgs& args));

}  // namespace cdgen
