// Declares a kernel once for each instruction set that it is compiled for (CMakeLists.txt), in the
// namespace of that name. Macros only: simd.h says why the objects share no function.
#pragma once

#define CDGEN_DECLARE(...) \
    namespace portable {   \
    __VA_ARGS__;           \
    }                      \
    namespace avx2 {       \
    __VA_ARGS__;           \
    }                      \
    namespace avx512 {     \
    __VA_ARGS__;           \
    }
