// out[r][n] = sum_i x[r][i] weight[n][i] + bias[n] + addend[r][n], summed in fp32, i ascending.
//
// Every sum has a lane of its own, so its order does not depend on the other rows, on the threads
// or on how many lanes a register has. A piece of 32 outputs by 128 inputs (bf16: 256) stays in the
// nearest cache while 64 rows are multiplied with it, and the next piece is fetched meanwhile: the
// weights are read from memory once. A bf16 product takes two inputs at a time where the processor
// has an instruction for it; elsewhere plain code does the same.
#include "packed_linear.h"

#include "simd.h"
#include "with_dtype.h"

namespace cdgen::CDGEN_ISA {
namespace {

constexpr int64_t kPanel = 32;   // outputs, as kernels/packed_linear.py packs them
constexpr int64_t kPiece = 128;  // units: a unit is an fp32 input or a pair of bf16 inputs
constexpr int64_t kBlock = 64;   // rows
constexpr int64_t kPieceBytes = kPiece * kPanel * 4;
// Below so many multiply-adds, ten microseconds, waking another thread costs more than it saves.
constexpr int64_t kShared = 1 << 20;

// The sums in registers: kRows rows by kColumns outputs.
#if defined(__AVX512VL__)
constexpr int kRows = 8, kColumns = 32;
#else
constexpr int kRows = 6, kColumns = 16;
#endif

template <class T>
constexpr int64_t kInputs = 4 / static_cast<int64_t>(sizeof(T));  // of a unit

// What multiplies a piece: up to 64 rows, `stride` numbers apart, and `units` units of 32 outputs.
template <class T>
struct Piece {
    const T* x;        // [rows, units * kInputs<T>]
    const T* weights;  // [units, 32, kInputs<T>]
    int64_t stride, units;
    float* sums;  // [rows, 32], to which the products are added
};

// Adds the products of N rows for kColumns outputs.
template <int N>
void multiply(const Piece<float>& piece, int64_t row, int64_t column) {
    constexpr int kVectors = kColumns / 16;
    const float* x = piece.x + row * piece.stride;
    float* sums = piece.sums + row * kPanel + column;
    f32x16 sum[N][kVectors], weight[kVectors];
    for (int r = 0; r < N; ++r)
        for (int v = 0; v < kVectors; ++v) sum[r][v] = load16(sums + r * kPanel + 16 * v);
    for (int64_t i = 0; i < piece.units; ++i) {
        for (int v = 0; v < kVectors; ++v)
            weight[v] = load16(piece.weights + i * kPanel + column + 16 * v);
        for (int r = 0; r < N; ++r) {
            const f32x16 input = set16(x[r * piece.stride + i]);
            for (int v = 0; v < kVectors; ++v) sum[r][v] = fma(input, weight[v], sum[r][v]);
        }
    }
    for (int r = 0; r < N; ++r)
        for (int v = 0; v < kVectors; ++v) store(sums + r * kPanel + 16 * v, sum[r][v]);
}

#if defined(__AVX512VL__)
template <int N>
__attribute__((target("avx512bf16"))) void multiply(const Piece<bf16>& piece, int64_t row,
                                                    int64_t column) {
    const bf16* x = piece.x + row * piece.stride;
    float* sums = piece.sums + row * kPanel + column;
    __m512 low[N], high[N];
    for (int r = 0; r < N; ++r) {
        low[r] = _mm512_loadu_ps(sums + r * kPanel);
        high[r] = _mm512_loadu_ps(sums + r * kPanel + 16);
    }
    for (int64_t i = 0; i < piece.units; ++i) {
        const bf16* pairs = piece.weights + i * 2 * kPanel;
        const __m512bh first = (__m512bh)_mm512_loadu_si512(pairs);
        const __m512bh second = (__m512bh)_mm512_loadu_si512(pairs + kPanel);
        for (int r = 0; r < N; ++r) {
            int32_t pair;
            std::memcpy(&pair, x + r * piece.stride + 2 * i, 4);
            const __m512bh inputs = (__m512bh)_mm512_set1_epi32(pair);
            low[r] = _mm512_dpbf16_ps(low[r], inputs, first);
            high[r] = _mm512_dpbf16_ps(high[r], inputs, second);
        }
    }
    for (int r = 0; r < N; ++r) {
        _mm512_storeu_ps(sums + r * kPanel, low[r]);
        _mm512_storeu_ps(sums + r * kPanel + 16, high[r]);
    }
}
#endif

// Adds the products of one row, input by input, from `first` on.
void multiply_plainly(const Piece<bf16>& piece, int64_t row, int64_t first, int64_t inputs) {
    for (int64_t i = first; i < inputs; ++i) {
        const float input = to_float(piece.x[row * piece.stride + i]);
        const bf16* weights = piece.weights + i / 2 * 2 * kPanel + i % 2;
        for (int64_t n = 0; n < kPanel; ++n)
            piece.sums[row * kPanel + n] += input * to_float(weights[2 * n]);
    }
}

// Adds the products of all rows, and fetches the 16 KB at `next`.
template <class T>
void multiply_rows(const Piece<T>& piece, int64_t rows, const T* next) {
    for (int64_t row = 0; row < rows;) {
        const int64_t left = rows - row, taken = left >= kRows ? kRows : left >= 4 ? 4 : 1;
        prefetch<2>(next + row * (kPieceBytes / kBlock / static_cast<int64_t>(sizeof(T))),
                    taken * (kPieceBytes / kBlock));
        for (int64_t column = 0; column < kPanel; column += kColumns) {
            if (taken == kRows)
                multiply<kRows>(piece, row, column);
            else if (taken == 4)
                multiply<4>(piece, row, column);
            else
                multiply<1>(piece, row, column);
        }
        row += taken;
    }
}

void multiply_piece(const Piece<float>& piece, int64_t rows, int64_t, const float* next) {
    multiply_rows(piece, rows, next);
}

// The piece has 2 * units inputs, or one more.
void multiply_piece(const Piece<bf16>& piece, int64_t rows, int64_t inputs,
                    [[maybe_unused]] const bf16* next) {
    int64_t done = 0;
#if defined(__AVX512VL__)
    if (__builtin_cpu_supports("avx512bf16")) {
        multiply_rows(piece, rows, next);
        done = 2 * piece.units;
    }
#endif
    for (int64_t row = 0; row < rows; ++row) multiply_plainly(piece, row, done, inputs);
}

// out = sums + bias + addend, for eight outputs or the first `count` of them.
template <class T, class O>
void finish(const float* sums, const float* bias, const T* addend, int64_t count, O* out) {
    f32x8 x = load(sums);
    if (bias) x = x + load_tail(bias, count, 0.0f);
    if (addend) x = x + load_tail(addend, count, 0.0f);
    if (count < kLanes) return store_tail(out, x, count);
    store(out, x);
}

// Computes up to 64 rows of one model for the panel of outputs that begins at `first`.
template <class T, class O>
void compute_block(const LinearArgs& args, int64_t row, int64_t first) {
    const int64_t model = row / args.rows_per_model;
    const int64_t last = (model + 1) * args.rows_per_model;
    const int64_t rows = last - row < kBlock ? last - row : kBlock;
    const int64_t padded = (args.inputs + kInputs<T> - 1) / kInputs<T> * kInputs<T>;
    const int64_t panels = (args.outputs + kPanel - 1) / kPanel;
    const T* x = static_cast<const T*>(args.x) + row * args.inputs;
    const T* panel =
        static_cast<const T*>(args.panels) + (model * panels * kPanel + first) * padded;
    constexpr int64_t kStep = kPiece * kInputs<T>;
    float sums[kBlock * kPanel] = {};
    for (int64_t i = 0; i < args.inputs; i += kStep) {
        const int64_t inputs = args.inputs - i < kStep ? args.inputs - i : kStep;
        const T* weights = panel + i * kPanel;
        const Piece<T> piece{x + i, weights, args.inputs, inputs / kInputs<T>, sums};
        multiply_piece(piece, rows, inputs, weights + kStep * kPanel);
    }
    const float* bias = args.bias ? args.bias + model * args.outputs + first : nullptr;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = (row + r) * args.outputs + first;
        const T* addend = args.addend ? static_cast<const T*>(args.addend) + at : nullptr;
        O* out = static_cast<O*>(args.out) + at;
        for (int64_t n = 0; n < kPanel && first + n < args.outputs; n += kLanes)
            finish(sums + r * kPanel + n, bias ? bias + n : nullptr, addend ? addend + n : nullptr,
                   args.outputs - first - n, out + n);
    }
}

template <class T, class O>
void compute(const LinearArgs& args) {
    const int threads = args.rows * args.inputs * args.outputs < kShared ? 1 : args.threads;
    const int64_t panels = (args.outputs + kPanel - 1) / kPanel;
    // Neighbouring panels to one thread, whose fetching ahead then serves it; four turns, in case
    // another process slows one of the threads down.
    const int64_t turn = panels / (4 * threads) > 1 ? panels / (4 * threads) : 1;
    const int64_t models = args.rows / args.rows_per_model;
#pragma omp parallel for num_threads(threads) collapse(2) schedule(dynamic, turn)
    for (int64_t model = 0; model < models; ++model)
        for (int64_t panel = 0; panel < panels; ++panel)
            for (int64_t row = 0; row < args.rows_per_model; row += kBlock)
                compute_block<T, O>(args, model * args.rows_per_model + row, panel * kPanel);
}

}  // namespace

void packed_linear(const LinearArgs& args) {
    with_float(args.dtype, [&](auto number) {
        using T = decltype(number);
        if (args.out_dtype == Dtype::f32) return compute<T, float>(args);
        compute<T, T>(args);
    });
}

}  // namespace cdgen::CDGEN_ISA
