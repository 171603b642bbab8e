// The instruction set whose kernels run: the fastest that the processor has, unless a caller names
// another. For module.cpp, which alone is compiled for any processor.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "instruction_sets.h"

namespace cdgen {

enum class InstructionSet { portable, avx2, avx512 };

inline bool processor_has(InstructionSet set) {
#if defined(CDGEN_X86)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    if (set == InstructionSet::avx2) return avx2;
    if (set == InstructionSet::avx512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return set == InstructionSet::portable;
}

inline std::string name_of(InstructionSet set) {
    switch (set) {
        case InstructionSet::avx512:
            return "avx512";
        case InstructionSet::avx2:
            return "avx2";
        default:
            return "portable";
    }
}

// Returns those that the processor has, the fastest first.
inline std::vector<InstructionSet> available() {
    std::vector<InstructionSet> found;
    for (const auto set : {InstructionSet::avx512, InstructionSet::avx2, InstructionSet::portable})
        if (processor_has(set)) found.push_back(set);
    return found;
}

inline InstructionSet chosen = available().front();

inline std::string instruction_set() { return name_of(chosen); }

inline void set_instruction_set(const std::string& name) {
    std::string names;
    for (const auto set : available()) {
        if (name == name_of(set)) {
            chosen = set;
            return;
        }
        names += (names.empty() ? "" : ", ") + name_of(set);
    }
    throw std::invalid_argument("instruction set: expected one of " + names +
                                ", which this processor has, got " + name);
}

}  // namespace cdgen

// Calls a kernel in the namespace of the chosen instruction set.
#if defined(CDGEN_X86)
#define CDGEN_RUN(kernel, args)                                                   \
    (cdgen::chosen == cdgen::InstructionSet::avx512 ? cdgen::avx512::kernel(args) \
     : cdgen::chosen == cdgen::InstructionSet::avx2 ? cdgen::avx2::kernel(args)   \
                                                    : cdgen::portable::kernel(args))
#else
#define CDGEN_RUN(kernel, args) cdgen::portable::kernel(args)
#endif
