// Step 4 of the sampler: top-k, top-p and min-p by selection, never sorting more than is kept.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "sample_contrastive.h"
#include "sampling_candidates.h"

namespace cdgen::CDGEN_ISA {
namespace {

constexpr int64_t kMostRanked = 64;    // candidates: up to so many, all ranks are counted
constexpr int64_t kMostSorted = 1024;  // candidates: up to so many, top-p sorts them all

struct Entry {
    float score;
    int32_t id;
    double mass;
};

// Orders entries for truncation: by score descending, then by token id ascending.
inline bool before(const Entry& a, const Entry& b) {
    return a.score > b.score || (a.score == b.score && a.id < b.id);
}

inline double mass_of(const Entry& e, float top) {
    return std::exp(static_cast<double>(e.score) - static_cast<double>(top));
}

// Writes the candidates in order of `before`. The place of each is the number of those before it,
// counted for all pairs: a sort of so few would spend its time on branches that it mispredicts.
inline void sort_by_ranks(const Candidates& tokens, Entry* entries) {
    store(tokens.score + tokens.count, set1(-kInf));  // there is room; no score reaches it
    for (int64_t i = 0; i < tokens.count; ++i) {
        const f32x8 score = set1(tokens.score[i]);
        uint64_t above = 0, level = 0;  // a bit per candidate
        for (int64_t j = 0; j < tokens.count; j += kLanes) {
            const f32x8 other = load(tokens.score + j);
            above |= static_cast<uint64_t>(bits(greater(other, score))) << j;
            level |= static_cast<uint64_t>(bits(equal(other, score))) << j;
        }
        const uint64_t earlier = level & ((uint64_t{1} << i) - 1);
        entries[__builtin_popcountll(above | earlier)] = {tokens.score[i], tokens.ids[i], 0.0};
    }
}

// Returns the length of the shortest prefix of sorted entries with a mass of top_p or more of the
// total.
inline int64_t prefix_of_sorted(Entry* entries, int64_t count, double top_p) {
    double total = 0.0, mass = 0.0;
    for (int64_t i = 0; i < count; ++i)
        total += entries[i].mass = mass_of(entries[i], entries[0].score);
    int64_t kept = 0;
    while (kept < count && mass < top_p * total) mass += entries[kept++].mass;
    return kept;
}

// Returns that length by quickselect on mass, linear in `count`; leaves the prefix in front, in any
// order.
inline int64_t prefix_by_selection(Entry* entries, int64_t count, double top_p) {
    const float top = std::min_element(entries, entries + count, before)->score;
    double total = 0.0, mass = 0.0;
    for (int64_t i = 0; i < count; ++i) total += entries[i].mass = mass_of(entries[i], top);
    int64_t low = 0, high = count;  // the prefix ends in (low, high]; mass: of entries before low
    while (high - low > 16) {
        const int64_t middle = low + (high - low) / 2;
        std::nth_element(entries + low, entries + middle, entries + high, before);
        double left = 0.0;
        for (int64_t i = low; i < middle; ++i) left += entries[i].mass;
        if (mass + left < top_p * total) {
            mass += left;
            low = middle;
        } else {
            high = middle;
        }
    }
    std::sort(entries + low, entries + high, before);
    while (low < high && mass < top_p * total) mass += entries[low++].mass;
    return low;
}

// Puts the candidates that top-k and top-p keep in front of the entries, in any order, and returns
// their number.
inline int64_t select(const Params& params, Entry* entries, int64_t count) {
    int64_t kept = count;
    if (params.top_k && params.top_k < count) {
        std::nth_element(entries, entries + params.top_k, entries + count, before);
        kept = params.top_k;
    }
    if (params.top_p >= 1.0) return kept;
    if (kept > kMostSorted) return prefix_by_selection(entries, kept, params.top_p);
    std::sort(entries, entries + kept, before);
    return prefix_of_sorted(entries, kept, params.top_p);
}

// Drops the candidates that top-k, then top-p, then min-p exclude.
inline void truncate(const Params& params, Buffer<Entry>& buffer, Candidates& tokens) {
    const bool by_rank = params.top_k && params.top_k < tokens.count;
    if (!by_rank && params.top_p >= 1.0 && params.log_min_p == -kInf) return;
    Entry* entries = buffer.at_least(tokens.count);
    const float floor = tokens.score[first_max(tokens.score, tokens.count)] + params.log_min_p;
    Entry last;
    if (tokens.count <= kMostRanked) {
        sort_by_ranks(tokens, entries);
        int64_t kept = by_rank ? params.top_k : tokens.count;
        if (params.top_p < 1.0) kept = prefix_of_sorted(entries, kept, params.top_p);
        last = entries[kept - 1];
    } else {
        for (int64_t i = 0; i < tokens.count; ++i)
            entries[i] = {tokens.score[i], tokens.ids[i], 0.0};
        const int64_t kept = select(params, entries, tokens.count);
        last = *std::max_element(entries, entries + kept, before);
    }
    int64_t count = 0;
    for (int64_t i = 0; i < tokens.count; ++i) {
        const Entry e{tokens.score[i], tokens.ids[i], 0.0};
        tokens.ids[count] = e.id;
        tokens.score[count] = e.score;
        count += !before(last, e) && e.score >= floor;
    }
    tokens.count = count;
}

}  // namespace
}  // namespace cdgen::CDGEN_ISA
