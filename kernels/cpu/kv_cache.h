// The KV cache of one layer, as the ops on it take it.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace cdgen {

struct CacheShape {  // queries [rows, heads, head_dim], caches [rows, kv_heads, capacity, head_dim]
    int64_t rows, heads, kv_heads, capacity, head_dim;
};

struct KvCache {
    void *keys, *values;               // [rows, kv_heads, capacity, head_dim]
    float *key_scales, *value_scales;  // [rows, kv_heads, capacity]: an int8 head is its numbers
                                       // times its scale; null in another format
    Dtype stored;                      // f32, bf16 or i8
};

}  // namespace cdgen
