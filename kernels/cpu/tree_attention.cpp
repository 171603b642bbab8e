// out_i = sum_j softmax_j(scale q_i . k_j) v_j over j = node i and its ancestors, in fp32.
//
// Nodes come in depth-first order, so nodes i - 1 and i share their path down to their common
// ancestor: each thread keeps the keys and values of the current path in its own buffers and writes
// one column per node. Keys are kept transposed, eight neighbours on the path to a vector: a dot
// product per key would be mostly horizontal sums when a head has only 8 numbers. A node's sums run
// over its own path in one order, whatever is around it.
#include "tree_attention.h"

#include <memory>

#include "attention.h"
#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

constexpr int64_t kBlock = 256;  // nodes that a thread takes at a time, after one path is rebuilt

struct Index {  // so that unique_ptr is instantiated for this file alone (see simd.h)
    int64_t at;
};

const float* head_of(const NodeHeads& x, int64_t node, int64_t head) {
    return x.data + node * x.node_stride + head * x.head_stride;
}

struct Depths {
    std::unique_ptr<Index[]> of;  // [nodes], 0 for roots
    int64_t deepest;              // the largest depth
    int64_t misplaced;            // the first node that is not in depth-first order, or -1
};

Depths depths(const TreeArgs& args) {
    Depths found{std::unique_ptr<Index[]>(new Index[args.nodes]), 0, -1};
    const std::unique_ptr<Index[]> path(new Index[args.nodes]);
    for (int64_t i = 0; i < args.nodes; ++i) {
        const int64_t parent = args.parents[i];
        const bool known = parent >= -1 && parent < i;
        const int64_t depth = known && parent >= 0 ? found.of[parent].at + 1 : 0;
        if (!known || (parent >= 0 && path[depth - 1].at != parent)) {
            found.misplaced = i;
            return found;
        }
        path[depth].at = i;
        found.of[i].at = depth;
        found.deepest = depth > found.deepest ? depth : found.deepest;
    }
    return found;
}

// The path from a root to one thread's current node: keys as [kv_heads, head_dim, capacity], values
// as [kv_heads, capacity, head_dim], and the weights of one head as [capacity].
struct Path {
    float *keys, *values, *weights;
    int64_t capacity;  // in nodes, a multiple of kLanes
};

Path make_path(const TreeArgs& args, int64_t deepest) {
    const int64_t capacity = (deepest + kLanes) / kLanes * kLanes;
    const int64_t numbers = args.keys.heads * args.head_dim * capacity;
    float* memory = scratch(2 * numbers + capacity);
    return {memory, memory + numbers, memory + 2 * numbers, capacity};
}

// Puts the keys and values of a node on the path.
void place(const TreeArgs& args, const Path& path, int64_t node, int64_t depth) {
    for (int64_t head = 0; head < args.keys.heads; ++head) {
        const float* k = head_of(args.keys, node, head);
        const float* v = head_of(args.values, node, head);
        float* column = path.keys + head * args.head_dim * path.capacity + depth;
        float* row = path.values + (head * path.capacity + depth) * args.head_dim;
        for (int64_t d = 0; d < args.head_dim; ++d) {
            column[d * path.capacity] = k[d];
            row[d] = v[d];
        }
    }
}

// weights[t] = q . k_t for N vectors of neighbours on the path.
template <int N>
void dot_columns(const float* query, const float* keys, int64_t head_dim, int64_t capacity,
                 float* weights) {
    f32x8 dots[N];
    for (f32x8& dot : dots) dot = set1(0.0f);
    for (int64_t d = 0; d < head_dim; ++d) {
        const f32x8 q = set1(query[d]);
        for (int i = 0; i < N; ++i)
            dots[i] = fma(q, load(keys + d * capacity + i * kLanes), dots[i]);
    }
    for (int i = 0; i < N; ++i) store(weights + i * kLanes, dots[i]);
}

void attend(const TreeArgs& args, const Path& path, int64_t node, int64_t head, int64_t length) {
    const int64_t kv_head = head / (args.query.heads / args.keys.heads);
    const float* query = head_of(args.query, node, head);
    const float* keys = path.keys + kv_head * args.head_dim * path.capacity;
    int64_t t = 0;
    for (; length - t > 3 * kLanes; t += 4 * kLanes)
        dot_columns<4>(query, keys + t, args.head_dim, path.capacity, path.weights + t);
    for (; t < length; t += kLanes)
        dot_columns<1>(query, keys + t, args.head_dim, path.capacity, path.weights + t);
    const float total = softmax_numerators(path.weights, length, args.scale);
    weighted_values(path.values + kv_head * path.capacity * args.head_dim, path.weights, total,
                    length, args.head_dim,
                    args.out + (node * args.query.heads + head) * args.head_dim);
}

void attend_block(const TreeArgs& args, const Depths& depth, int64_t first) {
    const Path path = make_path(args, depth.deepest);
    const int64_t last = first + kBlock < args.nodes ? first + kBlock : args.nodes;
    for (int64_t node = args.parents[first]; node >= 0; node = args.parents[node])
        place(args, path, node, depth.of[node].at);
    for (int64_t node = first; node < last; ++node) {
        place(args, path, node, depth.of[node].at);
        for (int64_t head = 0; head < args.query.heads; ++head)
            attend(args, path, node, head, depth.of[node].at + 1);
    }
}

}  // namespace

int64_t tree_attention(const TreeArgs& args) {
    const Depths depth = depths(args);
    if (depth.misplaced >= 0) return depth.misplaced;
    const int64_t floats = args.nodes * args.keys.heads * args.head_dim * 2;
#pragma omp parallel for num_threads(threads_for(floats, args.threads)) schedule(dynamic)
    for (int64_t first = 0; first < args.nodes; first += kBlock) attend_block(args, depth, first);
    return -1;
}

}  // namespace cdgen::CDGEN_ISA
