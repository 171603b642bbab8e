// Layer normalisation of the residual stream, in fp32: kernels/reference.py `layer_norm`.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "instruction_sets.h"

namespace cdgen {

struct LayerNormArgs {
    float* x;            // [rows, hidden_size]; becomes x + delta
    const void* delta;   // [rows, hidden_size] or null
    const void* weight;  // [models, hidden_size]: row r takes weight[r / rows_per_model]
    const void* bias;    // [models, hidden_size], taken as weight is
    void* out;           // [rows, hidden_size]
    Dtype dtype;         // of delta, weight, bias and out
    int64_t rows, rows_per_model, hidden_size;
    float eps;
    int threads;
};

CDGEN_DECLARE(void layer_norm(const LayerNormArgs& args));

}  // namespace cdgen
