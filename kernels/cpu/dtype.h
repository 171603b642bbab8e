// Number formats of tensors.
#pragma once

namespace cdgen {

enum class Dtype { f32, bf16, fp16, i8 };

}  // namespace cdgen
