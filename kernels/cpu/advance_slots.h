// One token further for every slot of the running batch: kernels/reference.py `advance_slots`.
#pragma once

#include <cstdint>

#include "instruction_sets.h"

namespace cdgen {

struct SlotArgs {
    int64_t* tokens;               // [slots], written
    int64_t* positions;            // [slots], written
    bool* alive;                   // [slots], written
    const int64_t* prompt_tokens;  // [slots]
    const int64_t* prompts;        // [slots, prompt_capacity]
    const int64_t* drawn;          // [slots]
    const uint8_t* status;         // [slots]
    const int32_t* plausible;      // [slots]
    const int64_t* stops;          // [stop_count]
    int32_t* record;               // [3, slots], written
    int64_t slots, prompt_capacity, stop_count, max_new_tokens;
};

CDGEN_DECLARE(void advance_slots(const SlotArgs& args));

}  // namespace cdgen
