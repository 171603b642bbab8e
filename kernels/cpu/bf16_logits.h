// fp32 logits from hidden states and a head in bf16: kernels/reference.py `head_logits`.
#pragma once

#include <cstdint>

#include "instruction_sets.h"

namespace cdgen {

struct LogitsArgs {
    const uint16_t* hidden;  // [rows, 2 * pairs] bf16
    const uint16_t* head;    // [panels, pairs, 32, 2] bf16: 32 tokens' weights, by pairs of inputs
    float* out;              // [rows, vocab_size]
    int64_t rows, pairs, vocab_size;
    int threads;
};

CDGEN_DECLARE(void bf16_logits(const LogitsArgs& args));

}  // namespace cdgen
