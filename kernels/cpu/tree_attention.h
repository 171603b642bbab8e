// Attention of every node of a forest over itself and its ancestors, fp32: kernels/reference.py
// `tree_attention`.
#pragma once

#include <cstdint>

#include "instruction_sets.h"

namespace cdgen {

struct NodeHeads {  // [nodes, heads, head_dim], the last dimension contiguous
    const float* data;
    int64_t node_stride, head_stride, heads;
};

struct TreeArgs {
    NodeHeads query, keys, values;
    const int64_t* parents;  // [nodes], -1 for a root
    float* out;              // [nodes, query.heads, head_dim]
    int64_t nodes, head_dim;
    float scale;
    int threads;
};

// Returns -1, or the first node that is not in depth-first order; `out` is then not written.
CDGEN_DECLARE(int64_t tree_attention(const TreeArgs& args));

}  // namespace cdgen
