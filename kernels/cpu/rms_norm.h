// RMS normalisation of the residual stream, in fp32: kernels/reference.py `rms_norm`.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "instruction_sets.h"

namespace cdgen {

struct RmsNormArgs {
    float* x;            // [rows, hidden_size]; becomes x + delta
    const void* delta;   // [rows, hidden_size] or null
    const void* weight;  // [models, hidden_size]: row r takes weight[r / rows_per_model]
    void* out;           // [rows, hidden_size]
    Dtype dtype;         // of delta, weight and out
    int64_t rows, rows_per_model, hidden_size;
    float eps;
    int threads;
};

CDGEN_DECLARE(void rms_norm(const RmsNormArgs& args));

}  // namespace cdgen
