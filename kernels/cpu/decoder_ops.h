// The small ops between the matrix products of a decoder layer, all fp32:
// kernels/reference.py `rms_norm`, `rotary`, `swiglu`.
#pragma once

#include <cstdint>

namespace cdgen {

struct NormArgs {
    float* x;             // [rows, width]; becomes x + delta where delta is given
    const float* delta;   // [rows, width] or null
    const float* weight;  // [width]
    float* out;           // [rows, width]
    int64_t rows, width;
    float eps;
    int threads;
};

struct RotaryArgs {
    const float* qkv;          // [rows, (heads + 2 kv_heads) * width]
    const float* cos;          // [capacity, width / 2]
    const float* sin;          // [capacity, width / 2]
    const int64_t* positions;  // [rows], each in [0, capacity)
    const float* query_norm;   // [width] or null: RMS norm of each head before the rotation
    const float* key_norm;     // [width] or null
    float eps;
    float* query;   // [rows, heads, width]
    float* keys;    // [rows, kv_heads, capacity, width], written at the row's position
    float* values;  // [rows, kv_heads, capacity, width], likewise
    int64_t rows, heads, kv_heads, capacity, width;
    int threads;
};

struct SwigluArgs {
    const float* gate_up;  // [rows, 2 * width]
    float* out;            // [rows, width]
    int64_t rows, width;
    int threads;
};

namespace avx2 {
void rms_norm(const NormArgs& args);
void rotary_to_cache(const RotaryArgs& args);
void swiglu(const SwigluArgs& args);
}  // namespace avx2
namespace portable {
void rms_norm(const NormArgs& args);
void rotary_to_cache(const RotaryArgs& args);
void swiglu(const SwigluArgs& args);
}  // namespace portable

}  // namespace cdgen
