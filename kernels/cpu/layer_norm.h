// Layer normalisation of the residual stream, fp32: kernels/reference.py `layer_norm`.
#pragma once

#include <cstdint>

#include "instruction_sets.h"

namespace cdgen {

struct LayerNormArgs {
    float* x;             // [rows, hidden_size]; becomes x + delta
    const float* delta;   // [rows, hidden_size] or null
    const float* weight;  // [models, hidden_size]: row r takes weight[r / rows_per_model]
    const float* bias;    // [models, hidden_size], taken as weight is
    float* out;           // [rows, hidden_size]
    int64_t rows, rows_per_model, hidden_size;
    float eps;
    int threads;
};

CDGEN_DECLARE(void layer_norm(const LayerNormArgs& args));

}  // namespace cdgen
