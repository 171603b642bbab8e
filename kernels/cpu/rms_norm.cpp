// x += delta;  out = x / sqrt(mean(x^2) + eps) * weight, while the row is in cache.
#include "rms_norm.h"

#include "row_norm.h"
#include "simd.h"

namespace cdgen::CDGEN_ISA {

void rms_norm(const RmsNormArgs& args) {
    const int64_t width = args.hidden_size;
#pragma omp parallel for num_threads(threads_for(args.rows* width, args.threads)) schedule(static)
    for (int64_t row = 0; row < args.rows; ++row) {
        float* x = args.x + row * width;
        add_delta(x, args.delta ? args.delta + row * width : nullptr, width);
        rms_norm_row(x, args.weight + row / args.rows_per_model * width, width, args.eps,
                     args.out + row * width);
    }
}

}  // namespace cdgen::CDGEN_ISA
