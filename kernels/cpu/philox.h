// Philox4x32-10 (Salmon et al. 2011): random words that depend on (seed, sequence, position, token)
// alone. The counter layout is that of kernels/reference.py.
#pragma once

#include "simd.h"

namespace {

struct Words {
    uint32_t w[4];
};

// The stream of one drawn token: everything of the counter but the block of token ids.
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

// The four words of token ids 4 * block ... 4 * block + 3.
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

// -log(-log1p(-u)), u = min((x + 0.5) / 2^32, 1 - 2^-24): falls as the word x grows.
inline float gumbel(uint32_t x) {
    const float u = std::fmin((static_cast<float>(x) + 0.5f) * 0x1p-32f, 1.0f - 0x1p-24f);
    return -std::log(-std::log1p(-u));
}

// Whether any of the 32 words of blocks [block, block + 8) is at most `limit`.
#ifdef __AVX2__
inline __m256i mul_high(__m256i a, __m256i m) {
    const __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(a, m), 32);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
    return _mm256_blend_epi32(even, odd, 0xAA);
}

inline bool any_word_at_most(const Stream& s, uint32_t block, uint32_t limit) {
    const __m256i m0 = _mm256_set1_epi32(static_cast<int>(kPhiloxM0));
    const __m256i m1 = _mm256_set1_epi32(static_cast<int>(kPhiloxM1));
    __m256i c0 = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(block)),
                                  _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256i c1 = _mm256_set1_epi32(static_cast<int>(s.position));
    __m256i c2 = _mm256_set1_epi32(static_cast<int>(s.sequence[0]));
    __m256i c3 = _mm256_set1_epi32(static_cast<int>(s.sequence[1]));
    uint32_t k0 = s.key[0], k1 = s.key[1];
    for (int round = 0; round < 10; ++round) {
        const __m256i high0 = mul_high(c0, m0), low0 = _mm256_mullo_epi32(c0, m0);
        const __m256i high1 = mul_high(c2, m1), low1 = _mm256_mullo_epi32(c2, m1);
        c0 = _mm256_xor_si256(_mm256_xor_si256(high1, c1), _mm256_set1_epi32(static_cast<int>(k0)));
        c2 = _mm256_xor_si256(_mm256_xor_si256(high0, c3), _mm256_set1_epi32(static_cast<int>(k1)));
        c1 = low1;
        c3 = low0;
        k0 += kPhiloxW0;
        k1 += kPhiloxW1;
    }
    const __m256i least = _mm256_min_epu32(_mm256_min_epu32(c0, c1), _mm256_min_epu32(c2, c3));
    const __m256i bound = _mm256_set1_epi32(static_cast<int>(limit));
    return _mm256_movemask_epi8(_mm256_cmpeq_epi32(_mm256_min_epu32(least, bound), least)) != 0;
}
#else
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
