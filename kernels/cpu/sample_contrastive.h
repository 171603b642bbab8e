// Contrastive sampling, one draw per row: kernels/reference.py `sample_contrastive`.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "instruction_sets.h"

namespace cdgen {

// Kept in step with RowStatus in kernels/sampling_params.py.
enum Status : uint8_t { kOk, kGoodNotFinite, kNoFiniteGood, kBadNotFinite, kScoreOverflow };

struct Matrix {
    const void* data;  // null: no such matrix
    int64_t stride;    // elements from row to row
    Dtype dtype;
};

struct Head {          // turns BAD's hidden states into logits; all three have one dtype
    Matrix hidden;     // [rows, hidden_size]
    Matrix weight;     // [vocab_size, hidden_size]
    const void* bias;  // [vocab_size] or null
    int64_t hidden_size;
};

struct Params {  // as in kernels/sampling_params.py, with logarithms of alpha and min_p
    float good_weight, bad_weight, log_alpha, temperature, log_min_p;
    int64_t top_k;
    double top_p;
};

struct Noise {  // what the random words of a draw depend on, beside the token id
    uint64_t seed;
    const int64_t* sequence_ids;  // [rows]
    const int64_t* positions;     // [rows]
};

struct Draws {
    int64_t* tokens;     // [rows], -1 unless the status is kOk
    uint8_t* status;     // [rows]
    int32_t* plausible;  // [rows]
    int32_t* kept;       // [rows]
};

struct SampleArgs {
    Matrix good;  // [rows, vocab_size] logits
    int64_t rows, vocab_size;
    // BAD: its logits, in GOOD's dtype, or its head; neither when bad_weight is 0.
    Matrix bad;  // [rows, vocab_size]
    Head head;
    Params params;
    Noise noise;
    Draws out;
    int threads;
};

CDGEN_DECLARE(void sample_contrastive(const SampleArgs& args));

}  // namespace cdgen
