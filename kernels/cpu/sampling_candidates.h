// The list of a row's plausible tokens on which the steps of the sampler work, and its memory.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>

#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();

// Memory that a thread keeps between rows and calls. Growing it loses the contents.
template <class T>
class Buffer {
   public:
    T* at_least(int64_t count) {
        if (count > capacity_) {
            data_.reset(new T[count]);
            capacity_ = count;
        }
        return data_.get();
    }

   private:
    std::unique_ptr<T[]> data_;
    int64_t capacity_ = 0;
};

struct Float {  // so that Buffer<Float> is instantiated for each object alone (see simd.h)
    float x;
};
struct Id {
    int32_t x;
};

// The plausible tokens of a row in ascending id order, as parallel arrays.
struct Candidates {
    int32_t* ids;
    float* good;
    float* bad;
    float* score;
    int64_t count;
};

// Returns the index of the largest value, the first of equals.
inline int64_t first_max(const float* x, int64_t count) {
    f32x8 lanes_max = set1(-kInf);
    for (int64_t i = 0; i < count; i += kLanes)
        lanes_max =
            max(i + kLanes <= count ? load(x + i) : load_tail(x + i, count - i, -kInf), lanes_max);
    const float largest = max_lane(lanes_max);
    int64_t i = 0;
    while (x[i] != largest) ++i;
    return i;
}

}  // namespace
}  // namespace cdgen::CDGEN_ISA
