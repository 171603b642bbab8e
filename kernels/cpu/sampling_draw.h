// Step 5 of the sampler: the argmax of score + Gumbel noise, without the noise of tokens that
// cannot win.
#pragma once

#include <cmath>
#include <cstdint>

#include "philox.h"
#include "sampling_candidates.h"
#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

constexpr int32_t kDrawTile = 32;    // token ids whose random words are drawn together
constexpr int64_t kMostAtOnce = 32;  // tokens: up to so many, all random words are drawn at once

struct Winner {
    float key = -kInf;
    int32_t id = -1;

    void offer(float candidate_key, int32_t candidate) {
        if (candidate_key > key || (candidate_key == key && candidate < id)) {
            key = candidate_key;
            id = candidate;
        }
    }
};

// key = s - ln E with E >= u, so a token that beats `best` has u <= exp(s - best). The slack covers
// every rounding on the way to the compared keys; a score that can win is within 23 of `best`.
inline float slack(float best) { return 0.01f + 1e-6f * (2.0f * std::fabs(best) + 23.0f); }

// Returns the largest random word with which a score can still win.
inline uint32_t largest_winning_word(float score, float best) {
    const float u = std::exp(score - best + slack(best));
    return u < 1.0f ? static_cast<uint32_t>(u * 0x1p32f) : 0xFFFFFFFFu;
}

// Returns a bit for each of eight tokens that can still win with its random word.
inline int may_win(const float* scores, const uint32_t* words, float best) {
    const f32x8 gap = load(scores) - set1(best) + set1(slack(best));
    return bits(greater_equal(exp_nonpositive(min(gap, set1(0.0f))), fractions(words)));
}

// Offers eight tokens at most; turns only words that may win into noise. The lists have room for a
// whole vector beyond their last token (`plausible_tokens`).
inline void offer(const Candidates& tokens, int64_t begin, int64_t count, const uint32_t* words,
                  Winner& winner) {
    const int valid = count < kLanes ? (1 << count) - 1 : 0xFF;
    int hits = may_win(tokens.score + begin, words, winner.key) & valid;
    for (; hits; hits &= hits - 1) {
        const int64_t i = __builtin_ctz(static_cast<unsigned>(hits));
        winner.offer(tokens.score[begin + i] + gumbel(words[i]), tokens.ids[begin + i]);
    }
}

// Offers tokens [begin, end).
inline void offer_range(const Stream& stream, const Candidates& tokens, int64_t begin, int64_t end,
                        Winner& winner) {
    for (int64_t i = begin; i < end; i += kLanes) {
        uint32_t words[kLanes];
        words_of(stream, tokens.ids + i, words);
        offer(tokens, i, end - i, words, winner);
    }
}

inline int32_t draw_of_few(const Stream& stream, const Candidates& tokens) {
    uint32_t words[kMostAtOnce];
    for (int64_t i = 0; i < tokens.count; i += kLanes) words_of(stream, tokens.ids + i, words + i);
    Winner winner;
    const int64_t top = first_max(tokens.score, tokens.count);
    winner.offer(tokens.score[top] + gumbel(words[top]), tokens.ids[top]);
    for (int64_t i = 0; i < tokens.count; i += kLanes)
        offer(tokens, i, tokens.count - i, words + i, winner);
    return winner.id;
}

inline int32_t draw(const Stream& stream, const Candidates& tokens) {
    if (tokens.count == 1) return tokens.ids[0];
    if (tokens.count <= kMostAtOnce) return draw_of_few(stream, tokens);
    Winner winner;
    const int64_t top = first_max(tokens.score, tokens.count);
    offer_range(stream, tokens, top, top + 1, winner);
    for (int64_t i = 0, end; i < tokens.count; i = end) {
        const int32_t tile = tokens.ids[i] / kDrawTile, tile_end = (tile + 1) * kDrawTile;
        // A tile with few tokens is not worth its 32 words: take the next eight, from any tile.
        if (i + 16 > tokens.count || tokens.ids[i + 15] >= tile_end) {
            end = i + kLanes < tokens.count ? i + kLanes : tokens.count;
            offer_range(stream, tokens, i, end, winner);
            continue;
        }
        float best = tokens.score[i];
        for (end = i + 1; end < tokens.count && tokens.ids[end] < tile_end; ++end)
            best = tokens.score[end] > best ? tokens.score[end] : best;
        if (any_word_at_most(stream, static_cast<uint32_t>(tile) * (kDrawTile / 4),
                             largest_winning_word(best, winner.key)))
            offer_range(stream, tokens, i, end, winner);
    }
    return winner.id;
}

}  // namespace
}  // namespace cdgen::CDGEN_ISA
