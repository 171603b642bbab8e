// out_h = sum_t softmax_t(scale q_h . k_t) v_t over t < length, in fp32.
//
// The work is reading the cache once (2 length x width floats per KV head), so the queries that
// share a KV head are taken together. Sums over t run in one order that depends on the row's own
// length alone: a row's result does not change with its neighbours, its slot or the thread count.
#include "decode_attention.h"

#include "attention.h"
#include "philox.h"
#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

// weights[g][t] = q_g . k_t for the queries of one KV head, eight keys at a time: eight chains keep
// the multipliers busy. Past the last key it repeats, and the softmax discards the result.
void dot_products(const float* query, const float* keys, int64_t group, int64_t length,
                  int64_t width, int64_t stride, float* weights) {
    const int64_t whole = width / kLanes * kLanes;
    for (int64_t t = 0; t < length; t += kLanes) {
        const float* k[kLanes];
        for (int64_t j = 0; j < kLanes; ++j)
            k[j] = keys + (t + j < length ? t + j : length - 1) * width;
        for (int64_t g = 0; g < group; ++g) {
            const float* q = query + g * width;
            f32x8 dots[kLanes];
            for (f32x8& dot : dots) dot = set1(0.0f);
            for (int64_t d = 0; d < whole; d += kLanes) {
                const f32x8 part = load(q + d);
                for (int64_t j = 0; j < kLanes; ++j) dots[j] = fma(part, load(k[j] + d), dots[j]);
            }
            if (whole < width) {
                const f32x8 part = load_tail(q + whole, width - whole, 0.0f);
                for (int64_t j = 0; j < kLanes; ++j)
                    dots[j] = fma(part, load_tail(k[j] + whole, width - whole, 0.0f), dots[j]);
            }
            store(weights + g * stride + t, sum_each(dots));
        }
    }
}

// Counter layout: kernels/reference.py `dropout_keep`.
void drop(const AttentionArgs& args, int64_t row, int64_t head, float* weights) {
    const int64_t length = args.lengths[row];
    const int64_t stream_id =
        args.sequence_ids[row] |
        static_cast<int64_t>(static_cast<uint64_t>(args.layer * args.heads + head) << 48);
    const Stream stream = make_stream(args.seed ^ 0xFFFFFFFF00000000u, stream_id, length - 1);
    const uint32_t bound = static_cast<uint32_t>(args.rate * 0x1p32);
    const float kept = static_cast<float>(1.0 / (1.0 - args.rate));
    for (int64_t t = 0; t < length; t += 4) {
        const Words words = philox(stream, static_cast<uint32_t>(t >> 2));
        for (int64_t j = 0; j < 4 && t + j < length; ++j)
            weights[t + j] = words.w[j] >= bound ? weights[t + j] * kept : 0.0f;
    }
}

void attend(const AttentionArgs& args, int64_t row, int64_t kv_head) {
    const int64_t group = args.heads / args.kv_heads, length = args.lengths[row];
    const int64_t stride = (args.capacity + kLanes - 1) / kLanes * kLanes;
    const int64_t cache = (row * args.kv_heads + kv_head) * args.capacity * args.width;
    const int64_t first = (row * args.heads + kv_head * group) * args.width;
    float* weights = scratch(group * stride);
    dot_products(args.query + first, args.keys + cache, group, length, args.width, stride, weights);
    for (int64_t g = 0; g < group; ++g) {
        float* w = weights + g * stride;
        const float total = softmax_numerators(w, length, args.scale);
        if (args.rate > 0.0) drop(args, row, kv_head * group + g, w);
        weighted_values(args.values + cache, w, total, length, args.width,
                        args.out + first + g * args.width);
    }
}

}  // namespace

void decode_attention(const AttentionArgs& args) {
    // An estimate: rows are seldom as long as the cache.
    const int64_t floats = args.rows * args.kv_heads * args.capacity * args.width;
#pragma omp parallel for num_threads(threads_for(floats, args.threads)) collapse(2) schedule(static)
    for (int64_t row = 0; row < args.rows; ++row)
        for (int64_t kv_head = 0; kv_head < args.kv_heads; ++kv_head) attend(args, row, kv_head);
}

}  // namespace cdgen::CDGEN_ISA
