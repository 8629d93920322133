#include "qlora/kernels/instruction_set.h"

#include <atomic>
#include <stdexcept>
#include <string>

#include "paths.h"

namespace qlora::kernels::cpu {

namespace {

InstructionSet fastest() {
    InstructionSet best = InstructionSet::kPortable;
    for (InstructionSet set : kInstructionSets) {
        if (supports(set)) best = set;
    }
    return best;
}

std::atomic<InstructionSet>& chosen() {
    static std::atomic<InstructionSet> set{fastest()};
    return set;
}

}  // namespace

bool supports(InstructionSet set) {
    if (set == InstructionSet::kPortable) return true;
#if defined(__x86_64__)
    // F16C is older than AVX2: no processor has the second without the first.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return avx2 && (set == InstructionSet::kAvx2 || __builtin_cpu_supports("avx512f"));
#else
    return false;
#endif
}

InstructionSet instruction_set() {
    return chosen().load(std::memory_order_relaxed);
}

void set_instruction_set(InstructionSet set) {
    if (!supports(set)) throw std::invalid_argument("this machine has no " + std::string(to_string(set)));
    chosen().store(set, std::memory_order_relaxed);
}

const char* to_string(InstructionSet set) {
    switch (set) {
        case InstructionSet::kAvx512:
            return "avx512";
        case InstructionSet::kAvx2:
            return "avx2";
        case InstructionSet::kPortable:
            break;
    }
    return "portable";
}

}  // namespace qlora::kernels::cpu
