// Rotary embedding of one token per row, written to the KV cache, fp32: kernels/reference.py
// `rotary`.
#pragma once

#include <cstdint>

#include "cache_shape.h"
#include "instruction_sets.h"

namespace cdgen {

struct RotaryArgs {
    const float* qkv;          // [rows, (heads + 2 kv_heads) * head_dim]
    const float* cos;          // [context, head_dim / 2]
    const float* sin;          // [context, head_dim / 2]
    const int64_t* positions;  // [sequences], each in [0, context)
    const float* query_norm;   // [models, head_dim] or null: RMS norm of each head, done first
    const float* key_norm;     // [models, head_dim] or null
    float* query;              // [rows, heads, head_dim]
    float* keys;               // [rows, kv_heads, capacity, head_dim], written at entry
                               // position % capacity
    float* values;             // like keys
    CacheShape shape;
    int64_t sequences, rows_per_model;  // row r takes positions[r % sequences] and the norms of
                                        // model r / rows_per_model
    float eps;
    int threads;
};

CDGEN_DECLARE(void rotary_to_cache(const RotaryArgs& args));

}  // namespace cdgen
