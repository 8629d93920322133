#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "qlora/kernels/instruction_set.h"

namespace qlora::kernels::cpu {

/// Every path this machine can run.
inline std::vector<InstructionSet> supported_sets() {
    std::vector<InstructionSet> sets;
    for (InstructionSet set : kInstructionSets) {
        if (supports(set)) sets.push_back(set);
    }
    return sets;
}

/// Name of a case in a test suite that runs on every path.
inline std::string set_name(const testing::TestParamInfo<InstructionSet>& set) {
    return to_string(set.param);
}

/// Runs one path until the end of the scope.
class UseInstructionSet {
  public:
    explicit UseInstructionSet(InstructionSet set) : before_(instruction_set()) { set_instruction_set(set); }
    ~UseInstructionSet() { set_instruction_set(before_); }
    UseInstructionSet(const UseInstructionSet&) = delete;
    UseInstructionSet& operator=(const UseInstructionSet&) = delete;

  private:
    InstructionSet before_;
};

}  // namespace qlora::kernels::cpu
