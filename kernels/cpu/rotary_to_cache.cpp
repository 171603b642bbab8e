// Pair (x_i, x_{i + head_dim / 2}) turns by angle i of the row's position. One pass: rotated keys
// and values go straight to the cache, rounded to its format.
#include "rotary_to_cache.h"

#include "row_norm.h"
#include "simd.h"
#include "store_head.h"
#include "with_dtype.h"

namespace cdgen::CDGEN_ISA {
namespace {

constexpr int64_t kWidestHead = 1024;  // as kernels/rotary_to_cache.py checks

struct Angles {  // of one position
    const float *cos, *sin;
};

template <class T>
void rotate(const T* x, const Angles& angles, int64_t head_dim, float* out) {
    const int64_t half = head_dim / 2;
    for (int64_t i = 0; i < half; ++i) {
        const float low = to_float(x[i]), high = to_float(x[i + half]);
        out[i] = low * angles.cos[i] - high * angles.sin[i];
        out[i + half] = high * angles.cos[i] + low * angles.sin[i];
    }
}

// Norms the head first unless `norm` is null.
template <class T>
void norm_and_rotate(const T* x, const T* norm, float eps, const Angles& angles, int64_t head_dim,
                     float* out) {
    if (!norm) return rotate(x, angles, head_dim, out);
    T normed[kWidestHead];
    rms_norm_row(x, norm, head_dim, eps, normed);
    rotate(normed, angles, head_dim, out);
}

// T is the format of queries, S that of the cache.
template <class T, class S>
void rotate_row(const RotaryArgs& args, int64_t row) {
    const CacheShape& s = args.shape;
    const int64_t position = args.positions[row % args.sequences];
    const int64_t table = position * s.head_dim / 2;
    const int64_t gains = row / args.rows_per_model * s.head_dim;
    const Angles angles{args.cos + table, args.sin + table};
    const auto* query_norm = static_cast<const T*>(args.query_norm);
    const auto* key_norm = static_cast<const T*>(args.key_norm);
    const T* query =
        static_cast<const T*>(args.qkv) + row * (s.heads + 2 * s.kv_heads) * s.head_dim;
    const T* key = query + s.heads * s.head_dim;
    const T* value = key + s.kv_heads * s.head_dim;
    float head[kWidestHead];
    for (int64_t h = 0; h < s.heads; ++h) {
        norm_and_rotate(query + h * s.head_dim, query_norm ? query_norm + gains : nullptr, args.eps,
                        angles, s.head_dim, head);
        store_head(head, s.head_dim,
                   static_cast<T*>(args.query) + (row * s.heads + h) * s.head_dim);
    }
    for (int64_t h = 0; h < s.kv_heads; ++h) {
        const int64_t entry = (row * s.kv_heads + h) * s.capacity + position % s.capacity;
        norm_and_rotate(key + h * s.head_dim, key_norm ? key_norm + gains : nullptr, args.eps,
                        angles, s.head_dim, head);
        cache_head<S>(head, s.head_dim, args.cache.keys, args.cache.key_scales, entry);
        cache_head<S>(value + h * s.head_dim, s.head_dim, args.cache.values,
                      args.cache.value_scales, entry);
    }
}

template <class T, class S>
void rotate_rows(const RotaryArgs& args) {
    const CacheShape& s = args.shape;
    const int64_t floats = s.rows * (s.heads + 2 * s.kv_heads) * s.head_dim;
#pragma omp parallel for num_threads(threads_for(floats, args.threads)) schedule(static)
    for (int64_t row = 0; row < s.rows; ++row) rotate_row<T, S>(args, row);
}

}  // namespace

void rotary_to_cache(const RotaryArgs& args) {
    with_float(args.dtype, [&](auto number) {
        with_stored(args.cache.stored,
                    [&](auto stored) { rotate_rows<decltype(number), decltype(stored)>(args); });
    });
}

}  // namespace cdgen::CDGEN_ISA
