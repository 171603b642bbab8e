// Philox4x32-10 (Salmon et al. 2011): random words that depend on (seed, sequence, position, token)
// alone. The counter is that of `random_words` in kernels/reference.py.
#pragma once

#include "simd.h"

namespace {

struct Words {
    uint32_t w[4];
};

// The stream of one drawn token: the key, and the counter without the block of token ids.
struct Stream {
    uint32_t key[2];
    uint32_t position;
    uint32_t sequence[2];
};

inline Stream make_stream(uint64_t seed, int64_t sequence_id, int64_t position) {
    const uint64_t id = static_cast<uint64_t>(sequence_id);
    return {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
            static_cast<uint32_t>(position),
            {static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32)}};
}

constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;

// Returns the words of token ids 4 * block to 4 * block + 3.
inline Words philox(const Stream& s, uint32_t block) {
    uint32_t c0 = block, c1 = s.position, c2 = s.sequence[0], c3 = s.sequence[1];
    uint32_t k0 = s.key[0], k1 = s.key[1];
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = static_cast<uint64_t>(c0) * kPhiloxM0;
        const uint64_t p1 = static_cast<uint64_t>(c2) * kPhiloxM1;
        c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(p1);
        c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(p0);
        k0 += kPhiloxW0;
        k1 += kPhiloxW1;
    }
    return {{c0, c1, c2, c3}};
}

// Returns -log(-log1p(-u)) with u = min((x + 0.5) / 2^32, 1 - 2^-24): it falls as the word x grows.
inline float gumbel(uint32_t x) {
    const float u = std::fmin((static_cast<float>(x) + 0.5f) * 0x1p-32f, 1.0f - 0x1p-24f);
    return -std::log(-std::log1p(-u));
}

// The words of eight blocks: word i of block j is lane j of w[i].
#ifdef __AVX2__
struct Words8 {
    __m256i w[4];
};

inline __m256i mul_high(__m256i a, __m256i m) {
    const __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(a, m), 32);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
    return _mm256_blend_epi32(even, odd, 0xAA);
}

inline __m256i every(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }

inline Words8 philox8(const Stream& s, __m256i blocks) {
    const __m256i m0 = every(kPhiloxM0), m1 = every(kPhiloxM1);
    __m256i c0 = blocks, c1 = every(s.position), c2 = every(s.sequence[0]),
            c3 = every(s.sequence[1]);
    uint32_t k0 = s.key[0], k1 = s.key[1];
    for (int round = 0; round < 10; ++round) {
        const __m256i high0 = mul_high(c0, m0), low0 = _mm256_mullo_epi32(c0, m0);
        const __m256i high1 = mul_high(c2, m1), low1 = _mm256_mullo_epi32(c2, m1);
        c0 = _mm256_xor_si256(_mm256_xor_si256(high1, c1), every(k0));
        c2 = _mm256_xor_si256(_mm256_xor_si256(high0, c3), every(k1));
        c1 = low1;
        c3 = low0;
        k0 += kPhiloxW0;
        k1 += kPhiloxW1;
    }
    return {{c0, c1, c2, c3}};
}

// Writes the random words of eight token ids.
inline void words_of(const Stream& s, const int32_t* ids, uint32_t* words) {
    const __m256i id = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ids));
    const Words8 all = philox8(s, _mm256_srli_epi32(id, 2));
    // Bits 0 and 1 of the id choose among the four words: a blend reads the sign bit.
    const __m256 bit0 = _mm256_castsi256_ps(_mm256_slli_epi32(id, 31));
    const __m256 bit1 = _mm256_castsi256_ps(_mm256_slli_epi32(id, 30));
    __m256 w[4];
    for (int i = 0; i < 4; ++i) w[i] = _mm256_castsi256_ps(all.w[i]);
    const __m256 low = _mm256_blendv_ps(w[0], w[1], bit0),
                 high = _mm256_blendv_ps(w[2], w[3], bit0);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words),
                        _mm256_castps_si256(_mm256_blendv_ps(low, high, bit1)));
}

// Returns whether any of the 32 words of blocks [block, block + 8) is at most `limit`.
inline bool any_word_at_most(const Stream& s, uint32_t block, uint32_t limit) {
    const __m256i eight = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const Words8 all = philox8(s, _mm256_add_epi32(every(block), eight));
    const __m256i least = _mm256_min_epu32(_mm256_min_epu32(all.w[0], all.w[1]),
                                           _mm256_min_epu32(all.w[2], all.w[3]));
    const __m256i at_most = _mm256_cmpeq_epi32(_mm256_min_epu32(least, every(limit)), least);
    return _mm256_movemask_epi8(at_most) != 0;
}
#else
inline void words_of(const Stream& s, const int32_t* ids, uint32_t* words) {
    for (int i = 0; i < kLanes; ++i)
        words[i] = philox(s, static_cast<uint32_t>(ids[i]) >> 2).w[ids[i] & 3];
}

inline bool any_word_at_most(const Stream& s, uint32_t block, uint32_t limit) {
    for (uint32_t i = 0; i < 8; ++i) {
        const Words words = philox(s, block + i);
        for (const uint32_t w : words.w)
            if (w <= limit) return true;
    }
    return false;
}
#endif

}  // namespace
