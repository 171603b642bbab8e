// x += delta;  out = x / sqrt(mean(x^2) + eps) * weight, while the row is in cache.
#include "rms_norm.h"

#include "row_norm.h"
#include "simd.h"
#include "with_dtype.h"

namespace cdgen::CDGEN_ISA {
namespace {

template <class T>
void norm_rows(const RmsNormArgs& args) {
    const int64_t width = args.hidden_size;
    const auto* delta = static_cast<const T*>(args.delta);
    const auto* weight = static_cast<const T*>(args.weight);
    auto* out = static_cast<T*>(args.out);
#pragma omp parallel for num_threads(threads_for(args.rows* width, args.threads)) schedule(static)
    for (int64_t row = 0; row < args.rows; ++row) {
        float* x = args.x + row * width;
        add_delta(x, delta ? delta + row * width : nullptr, width);
        rms_norm_row(x, weight + row / args.rows_per_model * width, width, args.eps,
                     out + row * width);
    }
}

}  // namespace

void rms_norm(const RmsNormArgs& args) {
    with_float(args.dtype, [&](auto number) { norm_rows<decltype(number)>(args); });
}

}  // namespace cdgen::CDGEN_ISA
