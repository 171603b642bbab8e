// The gated activation of an MLP, fp32: kernels/reference.py `swiglu`.
#pragma once

#include <cstdint>

#include "instruction_sets.h"

namespace cdgen {

struct SwigluArgs {
    const float* gate_up;  // [rows, 2 * intermediate_size]
    float* out;            // [rows, intermediate_size]
    int64_t rows, intermediate_size;
    int threads;
};

CDGEN_DECLARE(void swiglu(const SwigluArgs& args));

}  // namespace cdgen
