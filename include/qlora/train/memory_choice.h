#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qlora/train/memory_plan.h"
#include "qlora/train/training_config.h"

namespace qlora::train {

/// How a run uses memory. Only its speed depends on it.
struct MemoryChoice {
    nn::Recomputation recomputation = nn::Recomputation::kNone;
    bool keep_dense = false;  ///< fp32 forms of the frozen matrices
    MemoryRequest request;    ///< used in that way
    MemoryPlan plan;
    std::string text;  ///< one line: the level, what each level needs, what is available
};

/// The fastest way that fits in nine tenths of `available` bytes, or else the one that needs least. true and
/// false choose the level; kept fp32 forms are given up before anything is made again, unless `cache` says
/// what becomes of them.
MemoryChoice choose_memory(MemoryRequest request, GradientCheckpointing setting, std::int64_t available,
                           CacheDequantized cache = CacheDequantized::kAuto);

/// A changed setting and what the run would need with it.
struct MemoryOption {
    std::string setting;      ///< "data.max_length: 512"
    std::int64_t needed = 0;  ///< MemoryPlan::needed()
};

/// The three options that lower `needed` most, for the end of a message; or that none does.
std::string memory_advice(std::vector<MemoryOption> options, std::int64_t needed);

}  // namespace qlora::train
