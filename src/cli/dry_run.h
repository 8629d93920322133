#pragma once

#include <string>

#include "qlora/cli/run_config.h"
#include "qlora/data/sft_dataset.h"
#include "session.h"

namespace qlora::cli {

/// What `qlora-train --dry-run` prints: rows token by token, lengths, drops, repeats, adapters, parameters,
/// memory.
std::string dry_run_report(const RunConfig& config, const ModelFolder& folder,
                           const data::PromptTemplate& prompt_template, const data::Dataset& train,
                           const data::Dataset* eval, at::Device device);

}  // namespace qlora::cli
