// Fused contrastive sampling, one draw per row: kernels/reference.py `sample_contrastive`.
#pragma once

#include <cstdint>

namespace cdgen {

enum class Dtype { f32, bf16, fp16 };

// Kept in step with RowStatus in kernels/sampling_params.py.
enum Status : uint8_t { kOk, kGoodNotFinite, kNoFiniteGood, kBadNotFinite, kScoreOverflow };

struct SampleArgs {
    const void* good;  // [rows, vocab] logits, `good_stride` elements from row to row
    int64_t good_stride;
    Dtype good_dtype;
    int64_t rows, vocab;

    // BAD, one of: its logits in GOOD's dtype; its hidden states and the head that turns them into
    // logits, in `head_dtype`; or neither, when bad_weight is 0.
    const void* bad;  // [rows, vocab]
    int64_t bad_stride;
    const void* hidden;  // [rows, width]
    int64_t hidden_stride;
    const void* head;  // [vocab, width]
    int64_t head_stride;
    const void* bias;  // [vocab] or null
    int64_t width;
    Dtype head_dtype;

    float good_weight, bad_weight, log_alpha, temperature, log_min_p;
    int64_t top_k;
    double top_p;

    uint64_t seed;
    const int64_t* sequence_ids;  // [rows]
    const int64_t* positions;     // [rows]
    int threads;

    int64_t* tokens;     // [rows], -1 where the status is not ok
    uint8_t* status;     // [rows]
    int32_t* plausible;  // [rows]
    int32_t* kept;       // [rows]
};

namespace avx2 {
void sample_contrastive(const SampleArgs& args);
}
namespace portable {
void sample_contrastive(const SampleArgs& args);
}

}  // namespace cdgen
