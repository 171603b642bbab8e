// The residual stream before the first layer: kernels/reference.py `embedding`.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "instruction_sets.h"

namespace cdgen {

struct EmbeddingArgs {
    const int64_t* tokens;     // [sequences], each in [0, vocab_size)
    const int64_t* positions;  // [sequences], each in [0, learned_positions) if they are learned
    const int64_t* models;     // [blocks]: row r is of sequence r % sequences and takes the tables
                               // of model models[r / sequences]
    const void* table;         // [models, vocab_size, hidden_size]
    const void* position_table;  // [models, learned_positions, hidden_size] or null
    float* out;                  // [blocks * sequences, hidden_size]
    Dtype dtype;                 // of the tables: f32 or bf16
    int64_t sequences, blocks, vocab_size, learned_positions, hidden_size;
};

CDGEN_DECLARE(void embedding(const EmbeddingArgs& args));

}  // namespace cdgen
