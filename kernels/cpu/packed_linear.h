// A linear layer whose weights are packed in panels of 32 outputs: kernels/reference.py `linear`.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "instruction_sets.h"

namespace cdgen {

struct LinearArgs {
    const void* x;       // [rows, inputs]
    const void* panels;  // [models, ceil(outputs / 32), inputs, 32]; of bf16
                         // [models, ceil(outputs / 32), ceil(inputs / 2), 32, 2], padded with 0
    const float* bias;   // [models, outputs] or null
    const void* addend;  // [rows, outputs] or null
    void* out;           // [rows, outputs]
    Dtype dtype;         // of x, panels and addend: f32 or bf16
    Dtype out_dtype;     // the same, or f32
    int64_t rows, rows_per_model;  // row r takes the weights of model r / rows_per_model
    int64_t inputs, outputs;
    int threads;
};

CDGEN_DECLARE(void packed_linear(const LinearArgs& args));

}  // namespace cdgen
