// out_h = sum_t softmax_t(scale q_h . k_t) v_t over t < length, in fp32.
//
// The work is reading the cache once (2 length x width floats per KV head), so the queries that
// share a KV head are taken together. Sums over t run in one order that depends on the row's own
// length alone: a row's result does not change with its neighbours, its slot or the thread count.
#include "decode_attention.h"

#include <memory>

#include "philox.h"
#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

constexpr int64_t kKeys = 4;  // keys per block of the dot products

struct Float {  // so that unique_ptr is instantiated for this file alone (see simd.h)
    float x;
};

float* scratch(int64_t count) {
    static thread_local std::unique_ptr<Float[]> data;
    static thread_local int64_t capacity = 0;
    if (count > capacity) {
        data.reset(new Float[count]);
        capacity = count;
    }
    return &data[0].x;
}

inline f32x8 load_up_to(const float* p, int64_t count) {
    return count >= kLanes ? load(p) : load_tail(p, count, 0.0f);
}

inline void store_up_to(float* p, f32x8 x, int64_t count) {
    if (count >= kLanes) return store(p, x);
    float lane[kLanes];
    store(lane, x);
    for (int64_t i = 0; i < count; ++i) p[i] = lane[i];
}

// weights[g][t] = q_g . k_t for the queries of one KV head
void dot_products(const float* query, const float* keys, int64_t group, int64_t length,
                  int64_t width, int64_t stride, float* weights) {
    for (int64_t t = 0; t < length; t += kKeys) {
        const float* k[kKeys];
        for (int64_t j = 0; j < kKeys; ++j)
            k[j] = keys + (t + j < length ? t + j : length - 1) * width;
        for (int64_t g = 0; g < group; ++g) {
            f32x8 dots[kKeys] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
            for (int64_t d = 0; d < width; d += kLanes) {
                const f32x8 q = load_up_to(query + g * width + d, width - d);
                for (int64_t j = 0; j < kKeys; ++j)
                    dots[j] = fma(q, load_up_to(k[j] + d, width - d), dots[j]);
            }
            for (int64_t j = 0; j < kKeys; ++j) weights[g * stride + t + j] = sum(dots[j]);
        }
    }
}

// In place; weights beyond `length` become 0. The sum is divided out of the values later.
float softmax_numerators(float* weights, int64_t length, float scale) {
    const int64_t padded = (length + kLanes - 1) / kLanes * kLanes;
    for (int64_t t = length; t < padded; ++t) weights[t] = -INFINITY;
    f32x8 largest = set1(-INFINITY);
    for (int64_t t = 0; t < padded; t += kLanes) {
        const f32x8 x = load(weights + t) * set1(scale);
        store(weights + t, x);
        largest = max(x, largest);
    }
    const f32x8 shift = set1(max_lane(largest));
    f32x8 total = set1(0.0f);
    for (int64_t t = 0; t < padded; t += kLanes) {
        const f32x8 e = exp_nonpositive(load(weights + t) - shift);
        store(weights + t, e);
        total = total + e;
    }
    return sum(total);
}

// Counter layout: kernels/reference.py `dropout_keep`.
void drop(const AttentionArgs& args, int64_t row, int64_t head, float* weights) {
    const int64_t length = args.lengths[row];
    const int64_t stream_id =
        args.sequence_ids[row] |
        static_cast<int64_t>(static_cast<uint64_t>(args.layer * args.heads + head) << 48);
    const Stream stream = make_stream(args.seed ^ 0xFFFFFFFF00000000u, stream_id, length - 1);
    const uint32_t bound = static_cast<uint32_t>(static_cast<double>(args.rate) * 0x1p32);
    const float kept = 1.0f / (1.0f - args.rate);
    for (int64_t t = 0; t < length; t += 4) {
        const Words words = philox(stream, static_cast<uint32_t>(t >> 2));
        for (int64_t j = 0; j < 4 && t + j < length; ++j)
            weights[t + j] = words.w[j] >= bound ? weights[t + j] * kept : 0.0f;
    }
}

// out_g = sum_t weights[g][t] v_t / total_g, sixteen columns at a time
void weighted_values(const float* values, const float* weights, const float* totals, int64_t group,
                     int64_t length, int64_t width, int64_t stride, float* out) {
    for (int64_t g = 0; g < group; ++g) {
        const float* w = weights + g * stride;
        const f32x8 total = set1(totals[g]);
        for (int64_t d = 0; d < width; d += 2 * kLanes) {
            f32x8 even[2] = {set1(0.0f), set1(0.0f)}, odd[2] = {set1(0.0f), set1(0.0f)};
            const int64_t left = width - d, right = width - d - kLanes;
            int64_t t = 0;
            for (; t + 2 <= length; t += 2) {
                const float* v = values + t * width + d;
                even[0] = fma(set1(w[t]), load_up_to(v, left), even[0]);
                odd[0] = fma(set1(w[t + 1]), load_up_to(v + width, left), odd[0]);
                if (right <= 0) continue;
                even[1] = fma(set1(w[t]), load_up_to(v + kLanes, right), even[1]);
                odd[1] = fma(set1(w[t + 1]), load_up_to(v + width + kLanes, right), odd[1]);
            }
            if (t < length) {
                const float* v = values + t * width + d;
                even[0] = fma(set1(w[t]), load_up_to(v, left), even[0]);
                if (right > 0) even[1] = fma(set1(w[t]), load_up_to(v + kLanes, right), even[1]);
            }
            store_up_to(out + g * width + d, (even[0] + odd[0]) / total, left);
            if (right > 0)
                store_up_to(out + g * width + d + kLanes, (even[1] + odd[1]) / total, right);
        }
    }
}

void attend(const AttentionArgs& args, int64_t row, int64_t kv_head) {
    const int64_t group = args.heads / args.kv_heads, length = args.lengths[row];
    const int64_t stride = (args.capacity + kLanes) / kLanes * kLanes;
    const int64_t cache = (row * args.kv_heads + kv_head) * args.capacity * args.width;
    const int64_t first = (row * args.heads + kv_head * group) * args.width;
    float* weights = scratch(group * (stride + 1));
    float* totals = weights + group * stride;
    dot_products(args.query + first, args.keys + cache, group, length, args.width, stride, weights);
    for (int64_t g = 0; g < group; ++g) {
        totals[g] = softmax_numerators(weights + g * stride, length, args.scale);
        if (args.rate > 0.0f) drop(args, row, kv_head * group + g, weights + g * stride);
    }
    weighted_values(args.values + cache, weights, totals, group, length, args.width, stride,
                    args.out + first);
}

}  // namespace

void decode_attention(const AttentionArgs& args) {
#pragma omp parallel for num_threads(args.threads) collapse(2) schedule(static)
    for (int64_t row = 0; row < args.rows; ++row)
        for (int64_t kv_head = 0; kv_head < args.kv_heads; ++kv_head) attend(args, row, kv_head);
}

}  // namespace cdgen::CDGEN_ISA
