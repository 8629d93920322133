#pragma once

#include <cstdint>

namespace qlora::kernels::cpu {

/// Code paths of the CPU kernels, each with what the ones before it have. They give the same bits; only the
/// speed differs. kAvx2 needs AVX2, F16C and FMA, kAvx512 AVX512F.
enum class InstructionSet : uint8_t { kPortable, kAvx2, kAvx512 };

inline constexpr InstructionSet kInstructionSets[] = {InstructionSet::kPortable, InstructionSet::kAvx2,
                                                      InstructionSet::kAvx512};

/// Whether this machine can run a path.
bool supports(InstructionSet set);

/// The path that runs: at first the fastest supported one.
InstructionSet instruction_set();

/// Chooses a path for the whole process; throws std::invalid_argument if this machine does not support it.
/// For tests, and for users who keep LibTorch to older instructions.
void set_instruction_set(InstructionSet set);

const char* to_string(InstructionSet set);

}  // namespace qlora::kernels::cpu
