// The sizes that the ops on a KV cache share.
#pragma once

#include <cstdint>

namespace cdgen {

struct CacheShape {  // queries [rows, heads, head_dim], caches [rows, kv_heads, capacity, head_dim]
    int64_t rows, heads, kv_heads, capacity, head_dim;
};

}  // namespace cdgen
