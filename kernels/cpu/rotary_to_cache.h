// Rotary embedding of one token per row, written to the KV cache: kernels/reference.py `rotary`,
// `stored`.
#pragma once

#include <cstdint>

#include "instruction_sets.h"
#include "kv_cache.h"

namespace cdgen {

struct RotaryArgs {
    const void* qkv;           // [rows, (heads + 2 kv_heads) * head_dim]
    const float* cos;          // [context, head_dim / 2]
    const float* sin;          // [context, head_dim / 2]
    const int64_t* positions;  // [sequences], each in [0, context)
    const void* query_norm;    // [models, head_dim] or null: RMS norm of each head, done first
    const void* key_norm;      // [models, head_dim] or null
    void* query;               // [rows, heads, head_dim]
    Dtype dtype;               // of qkv, norms and query: f32 or bf16
    KvCache cache;             // written at entry position % capacity
    CacheShape shape;
    int64_t sequences, rows_per_model;  // row r takes positions[r % sequences] and the norms of
                                        // model r / rows_per_model
    float eps;
    int threads;
};

CDGEN_DECLARE(void rotary_to_cache(const RotaryArgs& args));

}  // namespace cdgen
