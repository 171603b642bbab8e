// out_h = sum_t softmax_t(scale q_h . k_t) v_t over t < length, in fp32.
//
// The work is reading the cache once (2 length x head_dim numbers per KV head), so the queries that
// share a KV head are computed together, and while keys are multiplied, values are fetched, and the
// keys of the next head while values are summed. The order of the sums over t depends on the row's
// own length alone: a row's result does not change with its neighbours, its slot or the thread
// count.
#include "decode_attention.h"

#include "attention.h"
#include "philox.h"
#include "simd.h"
#include "store_head.h"
#include "with_dtype.h"

namespace cdgen::CDGEN_ISA {
namespace {

// weights[g][t] = q_g . k_t for the queries of one KV head, eight keys at a time: eight chains keep
// the multipliers busy. The last key stands in for the keys past it; the softmax discards those.
template <class S>
void dot_products(const float* query, const S* keys, int64_t group, int64_t length,
                  int64_t head_dim, int64_t stride, const S* values, float* weights) {
    const int64_t whole = head_dim / kLanes * kLanes;
    for (int64_t t = 0; t < length; t += kLanes) {
        prefetch<2>(values + t * head_dim, kLanes * head_dim * static_cast<int64_t>(sizeof(S)));
        const S* k[kLanes];
        for (int64_t j = 0; j < kLanes; ++j)
            k[j] = keys + (t + j < length ? t + j : length - 1) * head_dim;
        for (int64_t g = 0; g < group; ++g) {
            const float* q = query + g * head_dim;
            f32x8 dots[kLanes];
            for (f32x8& dot : dots) dot = set1(0.0f);
            for (int64_t d = 0; d < whole; d += kLanes) {
                const f32x8 part = load(q + d);
                for (int64_t j = 0; j < kLanes; ++j) dots[j] = fma(part, load(k[j] + d), dots[j]);
            }
            if (whole < head_dim) {
                const f32x8 part = load_tail(q + whole, head_dim - whole, 0.0f);
                for (int64_t j = 0; j < kLanes; ++j)
                    dots[j] = fma(part, load_tail(k[j] + whole, head_dim - whole, 0.0f), dots[j]);
            }
            store(weights + g * stride + t, sum_each(dots));
        }
    }
}

// Drops weights of one head and scales up the rest. The counter is that of kernels/reference.py
// `dropout_keep`.
void drop(const AttentionArgs& args, int64_t row, int64_t head, int64_t length, float* weights) {
    const AttentionDropout& dropout = args.dropout;
    const int64_t head_id = dropout.layer * args.shape.heads + head;
    const int64_t stream_id = dropout.sequence_ids[row % args.sequences] |
                              static_cast<int64_t>(static_cast<uint64_t>(head_id) << 48);
    const Stream stream = make_stream(dropout.seed ^ 0xFFFFFFFF00000000u, stream_id, length - 1);
    const uint32_t bound = static_cast<uint32_t>(dropout.rate * 0x1p32);
    const float kept = static_cast<float>(1.0 / (1.0 - dropout.rate));
    for (int64_t t = 0; t < length; t += 4) {
        const Words words = philox(stream, static_cast<uint32_t>(t >> 2));
        for (int64_t j = 0; j < 4 && t + j < length; ++j)
            weights[t + j] = words.w[j] >= bound ? weights[t + j] * kept : 0.0f;
    }
}

// weights[t] *= scales[t]
void multiply(const float* scales, int64_t length, float* weights) {
    int64_t t = 0;
    for (; t + kLanes <= length; t += kLanes)
        store(weights + t, load(weights + t) * load(scales + t));
    for (; t < length; ++t) weights[t] *= scales[t];
}

// T is the format of query and output, S that of the cache.
template <class T, class S>
void attend(const AttentionArgs& args, int64_t row, int64_t kv_head) {
    const CacheShape& s = args.shape;
    const int64_t group = s.heads / s.kv_heads, length = args.lengths[row % args.sequences];
    const int64_t stride = (s.capacity + kLanes - 1) / kLanes * kLanes;
    const int64_t entry = (row * s.kv_heads + kv_head) * s.capacity;
    const int64_t first = (row * s.heads + kv_head * group) * s.head_dim;
    const bool drops = args.dropout.rate > 0.0 && row >= args.dropout.first_row;
    const S* keys = static_cast<const S*>(args.cache.keys) + entry * s.head_dim;
    const S* values = static_cast<const S*>(args.cache.values) + entry * s.head_dim;
    float* weights = scratch(group * (stride + s.head_dim));
    float* query = weights + group * stride;
    store_head(static_cast<const T*>(args.query) + first, group * s.head_dim, query);
    dot_products(query, keys, group, length, s.head_dim, stride, values, weights);
    const bool is_last = row + 1 == s.rows && kv_head + 1 == s.kv_heads;
    const S* next_keys = is_last ? nullptr : keys + s.capacity * s.head_dim;
    for (int64_t g = 0; g < group; ++g) {
        float* w = weights + g * stride;
        if constexpr (sizeof(S) == 1) multiply(args.cache.key_scales + entry, length, w);
        const float total = softmax_numerators(w, length, args.scale);
        if (drops) drop(args, row, kv_head * group + g, length, w);
        if constexpr (sizeof(S) == 1) multiply(args.cache.value_scales + entry, length, w);
        weighted_values(values, w, total, length, s.head_dim,
                        static_cast<T*>(args.out) + first + g * s.head_dim,
                        g == 0 ? next_keys : nullptr);
    }
}

template <class T, class S>
void attend_all(const AttentionArgs& args) {
    const CacheShape& s = args.shape;
    // An estimate: few rows are as long as the cache. Their lengths differ, so threads take them as
    // they come.
    const int64_t floats = s.rows * s.kv_heads * s.capacity * s.head_dim;
#pragma omp parallel for num_threads(threads_for(floats, args.threads)) collapse(2) \
    schedule(dynamic, 4)
    for (int64_t row = 0; row < s.rows; ++row)
        for (int64_t kv_head = 0; kv_head < s.kv_heads; ++kv_head) attend<T, S>(args, row, kv_head);
}

}  // namespace

void decode_attention(const AttentionArgs& args) {
    with_float(args.dtype, [&](auto number) {
        with_stored(args.cache.stored,
                    [&](auto stored) { attend_all<decltype(number), decltype(stored)>(args); });
    });
}

}  // namespace cdgen::CDGEN_ISA
