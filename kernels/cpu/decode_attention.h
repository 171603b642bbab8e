// One query per row against its cached keys: kernels/reference.py `decode_attention`.
#pragma once

#include <cstdint>

namespace cdgen {

struct AttentionArgs {
    const float* query;      // [rows, heads, width]
    const float* keys;       // [rows, kv_heads, capacity, width]
    const float* values;     // [rows, kv_heads, capacity, width]
    const int64_t* lengths;  // [rows], each in [1, capacity]
    float* out;              // [rows, heads, width]
    int64_t rows, heads, kv_heads, capacity, width;
    float scale;

    // Dropout of attention weights at `rate`; off when rate is 0.
    double rate;
    uint64_t seed;
    int64_t layer;
    const int64_t* sequence_ids;  // [rows]
    int threads;
};

namespace avx2 {
void decode_attention(const AttentionArgs& args);
}
namespace portable {
void decode_attention(const AttentionArgs& args);
}

}  // namespace cdgen
