// x += delta;  out = (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias.
//
// Mean and variance take two passes over a row, which stays in cache: a running sum of squares
// would cancel when the mean is large.
#include "layer_norm.h"

#include "row_norm.h"
#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

float mean_of(const float* x, int64_t width) {
    f32x8 total = set1(0.0f);
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) total = total + load(x + i);
    if (i < width) total = total + load_tail(x + i, width - i, 0.0f);
    return sum(total) / static_cast<float>(width);
}

float variance_of(const float* x, int64_t width, float mean) {
    const f32x8 centre = set1(mean);
    f32x8 squares = set1(0.0f);
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
        const f32x8 centred = load(x + i) - centre;
        squares = fma(centred, centred, squares);
    }
    if (i < width) {
        const f32x8 centred = load_tail(x + i, width - i, mean) - centre;
        squares = fma(centred, centred, squares);
    }
    return sum(squares) / static_cast<float>(width);
}

}  // namespace

void layer_norm(const LayerNormArgs& args) {
    const int64_t width = args.hidden_size;
#pragma omp parallel for num_threads(threads_for(args.rows* width, args.threads)) schedule(static)
    for (int64_t row = 0; row < args.rows; ++row) {
        const int64_t gains = row / args.rows_per_model * width;
        const float *weight = args.weight + gains, *bias = args.bias + gains;
        float *x = args.x + row * width, *out = args.out + row * width;
        add_delta(x, args.delta ? args.delta + row * width : nullptr, width);
        const float mean = mean_of(x, width);
        const float scale = 1.0f / std::sqrt(variance_of(x, width, mean) + args.eps);
        for (int64_t i = 0; i < width; ++i) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
    }
}

}  // namespace cdgen::CDGEN_ISA
