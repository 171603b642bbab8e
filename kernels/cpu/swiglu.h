// The gated activation of an MLP, in fp32: kernels/reference.py `swiglu`.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "instruction_sets.h"

namespace cdgen {

struct SwigluArgs {
    const void* gate_up;  // [rows, 2 * intermediate_size]
    void* out;            // [rows, intermediate_size]
    Dtype dtype;          // of both
    int64_t rows, intermediate_size;
    int threads;
};

CDGEN_DECLARE(void swiglu(const SwigluArgs& args));

}  // namespace cdgen
