// x += delta;  out = (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias.
//
// Mean and variance take two passes over a row, which stays in cache: a running sum of squares
// would cancel when the mean is large.
#include "layer_norm.h"

#include "row_norm.h"
#include "simd.h"
#include "with_dtype.h"

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

template <class T>
void write_row(const float* x, float mean, float scale, const T* weight, const T* bias,
               int64_t width, T* out) {
    const f32x8 centre = set1(mean), factor = set1(scale);
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes)
        store(out + i, (load(x + i) - centre) * factor * load(weight + i) + load(bias + i));
    if (i == width) return;
    const int64_t left = width - i;
    const f32x8 normed = (load_tail(x + i, left, 0.0f) - centre) * factor;
    const f32x8 gain = load_tail(weight + i, left, 0.0f);
    store_tail(out + i, normed * gain + load_tail(bias + i, left, 0.0f), left);
}

template <class T>
void norm_rows(const LayerNormArgs& args) {
    const int64_t width = args.hidden_size;
    const auto* delta = static_cast<const T*>(args.delta);
    const auto *weight = static_cast<const T*>(args.weight),
               *bias = static_cast<const T*>(args.bias);
    auto* out = static_cast<T*>(args.out);
#pragma omp parallel for num_threads(threads_for(args.rows* width, args.threads)) schedule(static)
    for (int64_t row = 0; row < args.rows; ++row) {
        const int64_t gains = row / args.rows_per_model * width;
        float* x = args.x + row * width;
        add_delta(x, delta ? delta + row * width : nullptr, width);
        const float mean = mean_of(x, width);
        const float scale = 1.0f / std::sqrt(variance_of(x, width, mean) + args.eps);
        write_row(x, mean, scale, weight + gains, bias + gains, width, out + row * width);
    }
}

}  // namespace

void layer_norm(const LayerNormArgs& args) {
    with_float(args.dtype, [&](auto number) { norm_rows<decltype(number)>(args); });
}

}  // namespace cdgen::CDGEN_ISA
