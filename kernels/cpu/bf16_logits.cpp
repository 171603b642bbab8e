// out[r][v] = sum_i hidden[r][i] head[v][i], summed in fp32 and in one order for every row.
//
// A piece of 32 tokens by 256 inputs stays in the nearest cache while 64 rows are multiplied with
// it, so the head is read from memory once. Where the processor has an instruction that multiplies
// pairs of bf16 numbers, a piece is two registers per pair of inputs; elsewhere plain code does the
// same.
#include "bf16_logits.h"

#include "simd.h"

namespace cdgen::CDGEN_ISA {
namespace {

constexpr int64_t kPanel = 32;   // tokens, as kernels/bf16_logits.py packs them
constexpr int64_t kPiece = 128;  // pairs of inputs
constexpr int64_t kBlock = 64;   // rows
constexpr int kRows = 8;         // rows whose sums are in registers at the same time

// sums[v] += the products of `count` pairs, for the 32 tokens of a panel.
void plain_row(const uint16_t* hidden, const uint16_t* panel, int64_t count, float* sums) {
    for (int64_t p = 0; p < count; ++p)
        for (int64_t v = 0; v < kPanel; ++v)
            for (int64_t i = 0; i < 2; ++i)
                sums[v] += to_float(bf16{hidden[2 * p + i]}) *
                           to_float(bf16{panel[(p * kPanel + v) * 2 + i]});
}

#if defined(__AVX512VL__)
// The same for N rows, which are `stride` numbers apart; sums is [N, 32].
template <int N>
__attribute__((target("avx512bf16"))) void paired_rows(const uint16_t* hidden, int64_t stride,
                                                       const uint16_t* panel, int64_t count,
                                                       float* sums) {
    __m512 low[N], high[N];
    for (int r = 0; r < N; ++r) {
        low[r] = _mm512_loadu_ps(sums + r * kPanel);
        high[r] = _mm512_loadu_ps(sums + r * kPanel + kPanel / 2);
    }
    for (int64_t p = 0; p < count; ++p) {
        const __m512bh first = (__m512bh)_mm512_loadu_si512(panel + p * 2 * kPanel);
        const __m512bh second = (__m512bh)_mm512_loadu_si512(panel + p * 2 * kPanel + kPanel);
        for (int r = 0; r < N; ++r) {
            int32_t pair;
            std::memcpy(&pair, hidden + r * stride + 2 * p, 4);
            const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            low[r] = _mm512_dpbf16_ps(low[r], both, first);
            high[r] = _mm512_dpbf16_ps(high[r], both, second);
        }
    }
    for (int r = 0; r < N; ++r) {
        _mm512_storeu_ps(sums + r * kPanel, low[r]);
        _mm512_storeu_ps(sums + r * kPanel + kPanel / 2, high[r]);
    }
}
#endif

bool has_pair_products() {
#if defined(__AVX512VL__)
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

// sums [rows, 32] += the products of a piece.
void multiply_piece(const uint16_t* hidden, int64_t rows, int64_t stride, const uint16_t* panel,
                    int64_t count, float* sums) {
    int64_t row = 0;
#if defined(__AVX512VL__)
    if (has_pair_products()) {
        for (; row + kRows <= rows; row += kRows)
            paired_rows<kRows>(hidden + row * stride, stride, panel, count, sums + row * kPanel);
        for (; row < rows; ++row)
            paired_rows<1>(hidden + row * stride, stride, panel, count, sums + row * kPanel);
    }
#endif
    for (; row < rows; ++row) plain_row(hidden + row * stride, panel, count, sums + row * kPanel);
}

// Multiplies up to 64 rows with the panel that begins at token `first`.
void multiply_block(const LogitsArgs& args, int64_t row, int64_t first) {
    const int64_t rows = args.rows - row < kBlock ? args.rows - row : kBlock;
    const int64_t left = args.vocab_size - first, tokens = left < kPanel ? left : kPanel;
    const int64_t stride = 2 * args.pairs;
    const uint16_t* hidden = args.hidden + row * stride;
    const uint16_t* panel = args.head + first * stride;
    float sums[kBlock * kPanel] = {};
    for (int64_t p = 0; p < args.pairs; p += kPiece) {
        const int64_t count = args.pairs - p < kPiece ? args.pairs - p : kPiece;
        multiply_piece(hidden + 2 * p, rows, stride, panel + p * 2 * kPanel, count, sums);
    }
    for (int64_t r = 0; r < rows; ++r)
        std::memcpy(args.out + (row + r) * args.vocab_size + first, sums + r * kPanel,
                    static_cast<size_t>(tokens) * sizeof(float));
}

}  // namespace

void bf16_logits(const LogitsArgs& args) {
    const int64_t products = args.rows * args.pairs * args.vocab_size;
#pragma omp parallel for num_threads(threads_for(products, args.threads)) schedule(dynamic, 4)
    for (int64_t first = 0; first < args.vocab_size; first += kPanel)
        for (int64_t row = 0; row < args.rows; row += kBlock) multiply_block(args, row, first);
}

}  // namespace cdgen::CDGEN_ISA
