// The steps for one row, with m = max g:
//   1. scan      find m in one pass over GOOD; keep the maxima of tiles of 128 columns
//   2. collect   list the plausible tokens { v : g_v >= m + ln(alpha) }; skip tiles without one
//   3. score     s = (w_good g - w_bad b) / T; only here b is gathered, or computed from the head
//   4. truncate  apply top-k, top-p and min-p to s by selection; never sort more than is kept
//   5. draw      argmax of s + Gumbel noise; skip tiles of tokens whose random words cannot win
// Every step works on a compact list of 1 to V tokens, so flat rows and alpha = 0 take the same
// path.
#include "sample_contrastive.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "philox.h"
#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int64_t kTile = 16 * kLanes;  // columns per tile of the scan
constexpr int32_t kDrawTile = 32;       // token ids whose random words are drawn together
constexpr int64_t kMostSorted = 1024;   // candidates: up to so many, top-p sorts them all

struct Entry {
    float score;
    int32_t id;
    double mass;
};

// Orders entries for truncation: by score descending, then by token id ascending.
inline bool before(const Entry& a, const Entry& b) {
    return a.score > b.score || (a.score == b.score && a.id < b.id);
}

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

struct Float {  // so that Buffer<Float> is instantiated for this file alone (see simd.h)
    float x;
};
struct Id {
    int32_t x;
};

struct Scratch {
    Buffer<Float> tile_max, good, bad, score, hidden;
    Buffer<Id> ids;
    Buffer<Entry> entries;
};

// The plausible tokens of a row in ascending id order, as parallel arrays.
struct Candidates {
    int32_t* ids;
    float* good;
    float* bad;
    float* score;
    int64_t count;
};

struct Scan {
    float max;
    bool has_nan;
};

template <class T>
Scan scan(const T* good, int64_t vocab, float* tile_max) {
    f32x8 row_max = set1(-kInf), nan = set1(0.0f);
    int64_t v = 0;
    for (; v + kTile <= vocab; v += kTile, tile_max += kLanes) {
        // Four chains: in one, each maximum would wait for the last and halve the reading speed.
        f32x8 a = set1(-kInf), b = a, c = a, d = a;
        for (int64_t i = 0; i < kTile; i += 4 * kLanes) {
            const T* g = good + v + i;
            const f32x8 w = load(g), x = load(g + kLanes);
            const f32x8 y = load(g + 2 * kLanes), z = load(g + 3 * kLanes);
            nan = nan | (unordered(w, x) | unordered(y, z));
            a = max(w, a), b = max(x, b), c = max(y, c), d = max(z, d);
        }
        const f32x8 best = max(max(a, b), max(c, d));
        store(tile_max, best);
        row_max = max(row_max, best);
    }
    f32x8 best = set1(-kInf);
    for (; v < vocab; v += kLanes) {
        const f32x8 x = load_tail(good + v, vocab - v, -kInf);
        nan = nan | unordered(x, x);
        best = max(x, best);
    }
    store(tile_max, best);
    return {max_lane(max(row_max, best)), bits(nan) != 0};
}

template <class T>
int64_t collect(const T* good, int64_t vocab, float threshold, const float* tile_max, int32_t* ids,
                float* values) {
    const f32x8 bound = set1(threshold), never = set1(-kInf);
    int64_t count = 0;
    for (int64_t tile = 0; tile < vocab; tile += kTile, tile_max += kLanes) {
        if (!bits(greater_equal(load(tile_max), bound))) continue;
        const int64_t end = tile + kTile < vocab ? tile + kTile : vocab;
        for (int64_t v = tile; v < end; v += kLanes) {
            const f32x8 x =
                v + kLanes <= end ? load(good + v) : load_tail(good + v, end - v, -kInf);
            int hits = bits(greater_equal(x, bound) & greater(x, never));
            if (hits == 0) continue;
            if (hits == 0xFF) {
                store(values + count, x);
                for (int i = 0; i < kLanes; ++i) ids[count + i] = static_cast<int32_t>(v + i);
                count += kLanes;
                continue;
            }
            float lane[kLanes];
            store(lane, x);
            for (; hits; hits &= hits - 1) {
                const int i = __builtin_ctz(static_cast<unsigned>(hits));
                ids[count] = static_cast<int32_t>(v + i);
                values[count++] = lane[i];
            }
        }
    }
    return count;
}

template <class T>
float dot(const float* x, const T* w, int64_t width) {
    f32x8 a = set1(0.0f), b = a, c = a, d = a;
    int64_t i = 0;
    for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
        a = fma(load(x + i), load(w + i), a);
        b = fma(load(x + i + kLanes), load(w + i + kLanes), b);
        c = fma(load(x + i + 2 * kLanes), load(w + i + 2 * kLanes), c);
        d = fma(load(x + i + 3 * kLanes), load(w + i + 3 * kLanes), d);
    }
    for (; i < width; i += kLanes)
        a = fma(load_tail(x + i, width - i, 0.0f), load_tail(w + i, width - i, 0.0f), a);
    return sum((a + b) + (c + d));
}

template <class T>
const T* row_of(const Matrix& x, int64_t row) {
    return static_cast<const T*>(x.data) + row * x.stride;
}

template <class T>
void bad_from_logits(const T* bad, Candidates& tokens) {
    for (int64_t i = 0; i < tokens.count; ++i) tokens.bad[i] = to_float(bad[tokens.ids[i]]);
}

template <class T>
void bad_from_head(const Head& head, int64_t row, Scratch& scratch, Candidates& tokens) {
    const T* hidden = row_of<T>(head.hidden, row);
    const T* bias = static_cast<const T*>(head.bias);
    float* x = &scratch.hidden.at_least(head.hidden_size)->x;
    for (int64_t i = 0; i < head.hidden_size; ++i) x[i] = to_float(hidden[i]);
    for (int64_t i = 0; i < tokens.count; ++i) {
        const int64_t id = tokens.ids[i];
        tokens.bad[i] = dot(x, row_of<T>(head.weight, id), head.hidden_size);
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

// Returns the index of the largest value, the first of equals.
int64_t first_max(const float* x, int64_t count) {
    f32x8 lanes_max = set1(-kInf);
    for (int64_t i = 0; i < count; i += kLanes)
        lanes_max =
            max(i + kLanes <= count ? load(x + i) : load_tail(x + i, count - i, -kInf), lanes_max);
    const float largest = max_lane(lanes_max);
    int64_t i = 0;
    while (x[i] != largest) ++i;
    return i;
}

inline double mass_of(const Entry& e, float top) {
    return std::exp(static_cast<double>(e.score) - static_cast<double>(top));
}

// Sorts the entries and returns the length of the shortest prefix with a mass of top_p or more of
// the total.
int64_t prefix_by_sorting(Entry* entries, int64_t count, double top_p) {
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
int64_t prefix_by_selection(Entry* entries, int64_t count, double top_p) {
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
void truncate(const Params& params, Buffer<Entry>& buffer, Candidates& tokens) {
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
uint32_t largest_winning_word(float score, float best) {
    const float u = std::exp(score - best + slack(best));
    return u < 1.0f ? static_cast<uint32_t>(u * 0x1p32f) : 0xFFFFFFFFu;
}

// Returns a bit for each of eight tokens that can still win with its random word.
int may_win(const float* scores, const uint32_t* words, float best) {
    const f32x8 gap = load(scores) - set1(best) + set1(slack(best));
    return bits(greater_equal(exp_nonpositive(min(gap, set1(0.0f))), fractions(words)));
}

// Offers tokens [begin, end), eight at a time; turns only words that may win into noise. The lists
// have room for a whole vector beyond their last token (`plausible_tokens`).
void offer_range(const Stream& stream, const Candidates& tokens, int64_t begin, int64_t end,
                 Winner& winner) {
    for (int64_t i = begin; i < end; i += kLanes) {
        const int valid = end - i < kLanes ? (1 << (end - i)) - 1 : 0xFF;
        uint32_t words[kLanes];
        words_of(stream, tokens.ids + i, words);
        int hits = may_win(tokens.score + i, words, winner.key) & valid;
        for (; hits; hits &= hits - 1) {
            const int j = __builtin_ctz(static_cast<unsigned>(hits));
            winner.offer(tokens.score[i + j] + gumbel(words[j]), tokens.ids[i + j]);
        }
    }
}

int32_t draw(const Stream& stream, const Candidates& tokens) {
    if (tokens.count == 1) return tokens.ids[0];
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

template <class F>
void with_dtype(Dtype dtype, F f) {
    if (dtype == Dtype::f32) return f(float{});
    if (dtype == Dtype::bf16) return f(bf16{});
    return f(fp16{});
}

template <class T>
Status plausible_tokens(const SampleArgs& args, int64_t row, Scratch& scratch, Candidates& tokens) {
    const T* good = row_of<T>(args.good, row);
    float* tile_max = &scratch.tile_max.at_least((args.vocab_size / kTile + 1) * kLanes)->x;
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
    with_dtype(args.good.dtype, [&](auto t) {
        using T = decltype(t);
        status = plausible_tokens<T>(args, row, scratch, tokens);
        if (args.bad.data) bad_from_logits(row_of<T>(args.bad, row), tokens);
    });
    if (args.head.weight.data)
        with_dtype(args.head.weight.dtype,
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
