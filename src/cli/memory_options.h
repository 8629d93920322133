#pragma once

#include <vector>

#include "qlora/train/memory_choice.h"
#include "training_plan.h"

namespace qlora::cli {

/// The settings that could make this run smaller, each changed by one step, with what it would need then: the
/// micro-batch halved, rows of at most the next lower power of two, whole layers recomputed, weights in 4
/// bits, half the rank, fewer trained modules. Only what can still be changed is among them.
std::vector<train::MemoryOption> memory_options(const RunConfig& config, const models::DecoderSpec& model,
                                                const RowLengths& rows, const train::MemoryChoice& choice);

}  // namespace qlora::cli
