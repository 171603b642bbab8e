// Each is one pass over its input: what eager PyTorch spends here is reading and writing
// intermediates, and one launch for each of them.
#include "decoder_ops.h"

#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

// out = x / sqrt(mean(x^2) + eps) * weight
void norm_row(const float* x, const float* weight, int64_t width, float eps, float* out) {
    f32x8 squares = set1(0.0f);
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
    if (i < width) {
        const f32x8 tail = load_tail(x + i, width - i, 0.0f);
        squares = fma(tail, tail, squares);
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + eps);
    for (i = 0; i < width; ++i) out[i] = weight[i] * (x[i] * scale);
}

void rotate(const float* x, const float* cos, const float* sin, int64_t width, float* out) {
    const int64_t half = width / 2;
    for (int64_t i = 0; i < half; ++i) {
        const float low = x[i], high = x[i + half];
        out[i] = low * cos[i] - high * sin[i];
        out[i + half] = high * cos[i] + low * sin[i];
    }
}

void normed_rotation(const float* x, const float* norm, const RotaryArgs& args, int64_t position,
                     float* out) {
    const float* cos = args.cos + position * args.width / 2;
    const float* sin = args.sin + position * args.width / 2;
    if (!norm) return rotate(x, cos, sin, args.width, out);
    float normed[1024];  // the widest head that module.cpp lets through
    norm_row(x, norm, args.width, args.eps, normed);
    rotate(normed, cos, sin, args.width, out);
}

}  // namespace

void rms_norm(const NormArgs& args) {
#pragma omp parallel for num_threads(threads_for(args.rows* args.width, args.threads)) \
    schedule(static)
    for (int64_t row = 0; row < args.rows; ++row) {
        float* x = args.x + row * args.width;
        if (args.delta) {
            const float* delta = args.delta + row * args.width;
            for (int64_t i = 0; i < args.width; ++i) x[i] += delta[i];
        }
        norm_row(x, args.weight, args.width, args.eps, args.out + row * args.width);
    }
}

void rotary_to_cache(const RotaryArgs& args) {
    const int64_t w = args.width;
#pragma omp parallel for num_threads(threads_for(args.rows* args.heads* w, args.threads)) \
    schedule(static)
    for (int64_t row = 0; row < args.rows; ++row) {
        const float* qkv = args.qkv + row * (args.heads + 2 * args.kv_heads) * w;
        const int64_t position = args.positions[row];
        for (int64_t h = 0; h < args.heads; ++h)
            normed_rotation(qkv + h * w, args.query_norm, args, position,
                            args.query + (row * args.heads + h) * w);
        for (int64_t h = 0; h < args.kv_heads; ++h) {
            const int64_t cell = ((row * args.kv_heads + h) * args.capacity + position) * w;
            const float* key = qkv + (args.heads + h) * w;
            normed_rotation(key, args.key_norm, args, position, args.keys + cell);
            std::memcpy(args.values + cell, key + args.kv_heads * w,
                        static_cast<size_t>(w) * sizeof(float));
        }
    }
}

void swiglu(const SwigluArgs& args) {
    const int64_t w = args.width;
#pragma omp parallel for num_threads(threads_for(2 * args.rows * w, args.threads)) schedule(static)
    for (int64_t row = 0; row < args.rows; ++row) {
        const float* gate = args.gate_up + row * 2 * w;
        float* out = args.out + row * w;
        for (int64_t i = 0; i < w; i += kLanes) {
            const int64_t left = w - i;
            const f32x8 g = left >= kLanes ? load(gate + i) : load_tail(gate + i, left, 0.0f);
            const f32x8 up =
                left >= kLanes ? load(gate + w + i) : load_tail(gate + w + i, left, 0.0f);
            // silu(g) = g * sigmoid(g); with e = exp(-|g|), sigmoid is 1 / (1 + e) or e / (1 + e).
            const f32x8 e = exp_nonpositive(min(g, set1(0.0f) - g));
            const f32x8 top = select(greater(g, set1(0.0f)), set1(1.0f), e);
            const f32x8 y = g * (top / (set1(1.0f) + e)) * up;
            if (left >= kLanes) {
                store(out + i, y);
                continue;
            }
            float lane[kLanes];
            store(lane, y);
            for (int64_t j = 0; j < left; ++j) out[i + j] = lane[j];
        }
    }
}

}  // namespace cdgen::CDGEN_ISA
