// Layer normalisation, fp32: kernels/reference.py `layer_norm`.
#pragma once

#include <cstdint>

namespace cdgen {

struct LayerNormArgs {
    float* x;             // [rows, width]; becomes x + delta where delta is given
    const float* delta;   // [rows, width] or null
    const float* weight;  // [width]
    const float* bias;    // [width]
    float* out;           // [rows, width]
    int64_t rows, width;
    float eps;
    int threads;
};

namespace avx2 {
void layer_norm(const LayerNormArgs& args);
}  // namespace avx2
namespace portable {
void layer_norm(const LayerNormArgs& args);
}  // namespace portable

}  // namespace cdgen
