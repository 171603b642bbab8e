// Step 4 of the sampler: top-k, top-p and min-p by selection, never sorting more than is kept.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "sample_contrastive.h"
#include "sampling_candidates.h"

namespace cdgen::CDGEN_ISA {
namespace {

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

// Sorts the entries and returns the length of the shortest prefix with a mass of top_p or more of
// the total.
inline int64_t prefix_by_sorting(Entry* entries, int64_t count, double top_p) {
    std::sort(entries, entries + count, before);
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

// Drops the candidates that top-k, then top-p, then min-p exclude.
inline void truncate(const Params& params, Buffer<Entry>& buffer, Candidates& tokens) {
    const bool by_rank = params.top_k && params.top_k < tokens.count;
    if (!by_rank && params.top_p >= 1.0 && params.log_min_p == -kInf) return;
    Entry* entries = buffer.at_least(tokens.count);
    int64_t kept = tokens.count;
    for (int64_t i = 0; i < kept; ++i) entries[i] = {tokens.score[i], tokens.ids[i], 0.0};
    const float floor = std::min_element(entries, entries + kept, before)->score + params.log_min_p;
    if (by_rank) {
        std::nth_element(entries, entries + params.top_k, entries + kept, before);
        kept = params.top_k;
    }
    if (params.top_p < 1.0)
        kept = kept <= kMostSorted ? prefix_by_sorting(entries, kept, params.top_p)
                                   : prefix_by_selection(entries, kept, params.top_p);
    const Entry last = *std::max_element(entries, entries + kept, before);
    int64_t count = 0;
    for (int64_t i = 0; i < tokens.count; ++i) {
        const Entry e{tokens.score[i], tokens.ids[i], 0.0};
        if (before(last, e) || e.score < floor) continue;
        tokens.ids[count] = e.id;
        tokens.score[count++] = e.score;
    }
    tokens.count = count;
}

}  // namespace
}  // namespace cdgen::CDGEN_ISA
