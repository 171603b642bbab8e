// What every instruction set shares: the number of lanes and the narrow floats.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

constexpr int kLanes = 8;

struct bf16 {
    uint16_t bits;
};
struct fp16 {
    uint16_t bits;
};

inline float to_float(float x) { return x; }

inline float to_float(bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

inline float to_float(int8_t x) { return x; }

}  // namespace
