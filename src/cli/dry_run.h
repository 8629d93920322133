#pragma once

#include <string>

#include "qlora/cli/run_config.h"
#include "qlora/data/sft_dataset.h"
#include "qlora/train/memory_plan.h"
#include "session.h"

namespace qlora::cli {

/// The plan of a run's memory, from its configuration and data.
train::MemoryRequest memory_request(const RunConfig& config, const ModelFolder& folder,
                                    const adapters::MatchResult& match, const data::Dataset& train,
                                    at::Device device);

/// Whether decoder layers are recomputed: as set, or with "auto" when the plan without it exceeds the
/// available memory.
bool uses_gradient_checkpointing(const RunConfig& config, train::MemoryRequest request);

/// What `qlora-train --dry-run` prints: rows token by token, lengths, drops, repeats, adapters, parameters,
/// memory.
std::string dry_run_report(const RunConfig& config, const ModelFolder& folder,
                           const data::PromptTemplate& prompt_template, const data::Dataset& train,
                           const data::Dataset* eval, at::Device device);

}  // namespace qlora::cli
