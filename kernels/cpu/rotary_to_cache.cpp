// Pair (x_i, x_{i + head_dim / 2}) turns by angle i of the row's position. One pass: rotated keys
// and values go straight to the cache.
#include "rotary_to_cache.h"

#include "row_norm.h"
#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

constexpr int64_t kWidestHead = 1024;  // as kernels/rotary_to_cache.py checks

struct Angles {  // of one position
    const float *cos, *sin;
};

void rotate(const float* x, const Angles& angles, int64_t head_dim, float* out) {
    const int64_t half = head_dim / 2;
    for (int64_t i = 0; i < half; ++i) {
        const float low = x[i], high = x[i + half];
        out[i] = low * angles.cos[i] - high * angles.sin[i];
        out[i + half] = high * angles.cos[i] + low * angles.sin[i];
    }
}

// Norms the head first unless `norm` is null.
void norm_and_rotate(const float* x, const float* norm, float eps, const Angles& angles,
                     int64_t head_dim, float* out) {
    if (!norm) return rotate(x, angles, head_dim, out);
    float normed[kWidestHead];
    rms_norm_row(x, norm, head_dim, eps, normed);
    rotate(normed, angles, head_dim, out);
}

void rotate_row(const RotaryArgs& args, int64_t row) {
    const CacheShape& s = args.shape;
    const int64_t position = args.positions[row % args.sequences];
    const int64_t entry = position % s.capacity;
    const int64_t table = position * s.head_dim / 2;
    const int64_t gains = row / args.rows_per_model * s.head_dim;
    const Angles angles{args.cos + table, args.sin + table};
    const float* query_norm = args.query_norm ? args.query_norm + gains : nullptr;
    const float* key_norm = args.key_norm ? args.key_norm + gains : nullptr;
    const float* query = args.qkv + row * (s.heads + 2 * s.kv_heads) * s.head_dim;
    for (int64_t h = 0; h < s.heads; ++h)
        norm_and_rotate(query + h * s.head_dim, query_norm, args.eps, angles, s.head_dim,
                        args.query + (row * s.heads + h) * s.head_dim);
    for (int64_t h = 0; h < s.kv_heads; ++h) {
        const int64_t cell = ((row * s.kv_heads + h) * s.capacity + entry) * s.head_dim;
        const float* key = query + (s.heads + h) * s.head_dim;
        norm_and_rotate(key, key_norm, args.eps, angles, s.head_dim, args.keys + cell);
        std::memcpy(args.values + cell, key + s.kv_heads * s.head_dim,
                    static_cast<size_t>(s.head_dim) * sizeof(float));
    }
}

}  // namespace

void rotary_to_cache(const RotaryArgs& args) {
    const int64_t floats = args.shape.rows * args.shape.heads * args.shape.head_dim;
#pragma omp parallel for num_threads(threads_for(floats, args.threads)) schedule(static)
    for (int64_t row = 0; row < args.shape.rows; ++row) rotate_row(args, row);
}

}  // namespace cdgen::CDGEN_ISA
