// out_r = table[token_r] + position_table[position_r], in fp32. A step reads some ten KB here,
// which a second thread would not speed up.
#include "embedding.h"

#include "simd.h"
#include "with_dtype.h"

namespace cdgen::CDGEN_ISA {
namespace {

template <class T>
void embed_rows(const EmbeddingArgs& args) {
    const int64_t width = args.hidden_size;
    for (int64_t row = 0; row < args.blocks * args.sequences; ++row) {
        const int64_t model = args.models[row / args.sequences], i = row % args.sequences;
        const T* token =
            static_cast<const T*>(args.table) + (model * args.vocab_size + args.tokens[i]) * width;
        const T* position = args.position_table
                                ? static_cast<const T*>(args.position_table) +
                                      (model * args.learned_positions + args.positions[i]) * width
                                : nullptr;
        float* out = args.out + row * width;
        for (int64_t d = 0; d < width; d += kLanes) {
            f32x8 x = load_tail(token + d, width - d, 0.0f);
            if (position) x = x + load_tail(position + d, width - d, 0.0f);
            store_tail(out + d, x, width - d);
        }
    }
}

}  // namespace

void embedding(const EmbeddingArgs& args) {
    with_float(args.dtype, [&](auto number) { embed_rows<decltype(number)>(args); });
}

}  // namespace cdgen::CDGEN_ISA
