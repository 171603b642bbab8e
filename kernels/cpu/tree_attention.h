// Every node of a forest of token sequences against its ancestors: kernels/reference.py
// `tree_attention`.
#pragma once

#include <cstdint>

namespace cdgen {

struct Heads {  // [nodes, heads, width], the last dimension contiguous
    const float* data;
    int64_t node_stride, head_stride;
};

struct TreeArgs {
    Heads query, keys, values;
    const int64_t* parents;  // [nodes]
    float* out;              // [nodes, heads, width]
    int64_t nodes, heads, kv_heads, width;
    float scale;
    int threads;
};

// The first node that is not in depth-first order, or -1: then `out` is complete.
namespace avx2 {
int64_t tree_attention(const TreeArgs& args);
}
namespace portable {
int64_t tree_attention(const TreeArgs& args);
}

}  // namespace cdgen
