// The steps for one row, with m = max g:
//   1. scan      find m in one pass over GOOD; keep the maxima of tiles of 128 columns
//   2. collect   list the plausible tokens { v : g_v >= m + ln(alpha) }; skip tiles without one
//   3. score     s = (w_good g - w_bad b) / T; only here b is gathered, or computed from the head
//   4. truncate  apply top-k, top-p and min-p to s by selection; never sort more than is kept
//   5. draw      argmax of s + Gumbel noise; skip tiles of tokens whose random words cannot win
// Every step works on a compact list of 1 to V tokens, so flat rows and alpha = 0 take the same
// path.
#include "sample_contrastive.h"

#include <cmath>

#include "philox.h"
#include "sampling_candidates.h"
#include "sampling_collect.h"
#include "sampling_draw.h"
#include "sampling_truncate.h"
#include "simd.h"
#include "with_dtype.h"

namespace cdgen::CDGEN_ISA {
namespace {

struct Scratch {
    Buffer<Float> tile_max, good, bad, score, hidden;
    Buffer<Id> ids;
    Buffer<Entry> entries;
};

// Lane i of 32 sums the products of columns i, i + 32, ..., and the tail goes to the first eight.
template <class T>
float dot(const float* x, const T* w, int64_t width) {
    f32x16 a = set16(0.0f), b = a;
    int64_t i = 0;
    for (; i + 32 <= width; i += 32) {
        a = fma(load16(x + i), load16(w + i), a);
        b = fma(load16(x + i + 16), load16(w + i + 16), b);
    }
    f32x8 first = low(a);
    for (; i < width; i += kLanes)
        first = fma(load_tail(x + i, width - i, 0.0f), load_tail(w + i, width - i, 0.0f), first);
    return sum((first + high(a)) + (low(b) + high(b)));
}

template <class T>
const T* row_of(const Matrix& x, int64_t row) {
    return static_cast<const T*>(x.data) + row * x.stride;
}

template <class T>
void bad_from_logits(const T* bad, Candidates& tokens) {
    for (int64_t i = 0; i < tokens.count; ++i) tokens.bad[i] = to_float(bad[tokens.ids[i]]);
}

inline const float* widened(const float* x, int64_t, Buffer<Float>&) { return x; }

template <class T>
const float* widened(const T* x, int64_t count, Buffer<Float>& buffer) {
    float* out = &buffer.at_least(count)->x;
    for (int64_t i = 0; i < count; ++i) out[i] = to_float(x[i]);
    return out;
}

template <class T>
void bad_from_head(const Head& head, int64_t row, Scratch& scratch, Candidates& tokens) {
    const int64_t width = head.hidden_size;
    const float* x = widened(row_of<T>(head.hidden, row), width, scratch.hidden);
    const T* bias = static_cast<const T*>(head.bias);
    for (int64_t i = 0; i < tokens.count; ++i) {
        const int64_t id = tokens.ids[i];
        tokens.bad[i] = dot(x, row_of<T>(head.weight, id), width);
        if (bias) tokens.bad[i] += to_float(bias[id]);
    }
}

// Rounds four times, as the reference does: two products, a difference, a quotient.
Status score(const Params& params, Candidates& tokens) {
    const float temperature = params.temperature == 0.0f ? 1.0f : params.temperature;
    const bool contrast = params.bad_weight != 0.0f;
    int bad_finite = 1, score_finite = 1;  // int, not bool, so that the loop vectorises
    for (int64_t i = 0; i < tokens.count; ++i) {
        float s = params.good_weight * tokens.good[i];
        if (contrast) {
            bad_finite &= std::fabs(tokens.bad[i]) < kInf;
            s = s - params.bad_weight * tokens.bad[i];
        }
        s = s / temperature;
        score_finite &= std::fabs(s) < kInf;
        tokens.score[i] = s;
    }
    if (!bad_finite) return kBadNotFinite;
    return score_finite ? kOk : kScoreOverflow;
}

template <class T>
Status plausible_tokens(const SampleArgs& args, int64_t row, Scratch& scratch, Candidates& tokens) {
    const T* good = row_of<T>(args.good, row);
    float* tile_max = &scratch.tile_max.at_least(args.vocab_size / kTile + 1)->x;
    const Scan seen = scan(good, args.vocab_size, tile_max);
    if (seen.has_nan || seen.max == kInf) return kGoodNotFinite;
    if (seen.max == -kInf) return kNoFiniteGood;
    // The last store is a whole vector: leave room for one beyond the last token.
    const int64_t room = args.vocab_size + kLanes;
    tokens.ids = &scratch.ids.at_least(room)->x;
    tokens.good = &scratch.good.at_least(room)->x;
    tokens.bad = &scratch.bad.at_least(room)->x;
    tokens.score = &scratch.score.at_least(room)->x;
    tokens.count = collect(good, args.vocab_size, seen.max + args.params.log_alpha, tile_max,
                           tokens.ids, tokens.good);
    return kOk;
}

void sample_row(const SampleArgs& args, int64_t row, Scratch& scratch) {
    Candidates tokens{};
    Status status = kOk;
    with_logits(args.good.dtype, [&](auto t) {
        using T = decltype(t);
        status = plausible_tokens<T>(args, row, scratch, tokens);
        if (args.bad.data) bad_from_logits(row_of<T>(args.bad, row), tokens);
    });
    if (args.head.weight.data)
        with_logits(args.head.weight.dtype,
                    [&](auto t) { bad_from_head<decltype(t)>(args.head, row, scratch, tokens); });
    if (status == kOk) status = score(args.params, tokens);

    const Draws& out = args.out;
    out.status[row] = status;
    if (status != kOk) {
        out.tokens[row] = -1;
        out.plausible[row] = out.kept[row] = 0;
        return;
    }
    out.plausible[row] = static_cast<int32_t>(tokens.count);
    truncate(args.params, scratch.entries, tokens);
    out.kept[row] = static_cast<int32_t>(tokens.count);
    if (args.params.temperature == 0.0f) {
        out.tokens[row] = tokens.ids[first_max(tokens.score, tokens.count)];
        return;
    }
    const Noise& noise = args.noise;
    out.tokens[row] =
        draw(make_stream(noise.seed, noise.sequence_ids[row], noise.positions[row]), tokens);
}

}  // namespace

void sample_contrastive(const SampleArgs& args) {
#pragma omp parallel for num_threads(threads_for(args.rows* args.vocab_size, args.threads)) \
    schedule(dynamic, 4)
    for (int64_t row = 0; row < args.rows; ++row) {
        static thread_local Scratch scratch;
        sample_row(args, row, scratch);
    }
}

}  // namespace cdgen::CDGEN_ISA
