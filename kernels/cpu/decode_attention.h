// Attention of one query per row over its cached keys, in fp32: kernels/reference.py
// `decode_attention`.
#pragma once

#include <cstdint>

#include "instruction_sets.h"
#include "kv_cache.h"

namespace cdgen {

struct AttentionDropout {  // kernels/reference.py `dropout_keep`
    double rate;           // 0: every weight is kept
    uint64_t seed;
    int64_t layer, first_row;     // rows before first_row keep every weight
    const int64_t* sequence_ids;  // [sequences]
};

struct AttentionArgs {
    const void* query;  // [rows, heads, head_dim]
    KvCache cache;
    const int64_t* lengths;  // [sequences], each in [1, capacity]
    void* out;               // [rows, heads, head_dim]
    Dtype dtype;             // of query and out: f32 or bf16
    CacheShape shape;
    int64_t sequences;  // row r is of sequence r % sequences
    float scale;
    AttentionDropout dropout;
    int threads;
};

CDGEN_DECLARE(void decode_attention(const AttentionArgs& args));

}  // namespace cdgen
