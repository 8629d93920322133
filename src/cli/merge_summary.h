#pragma once

#include "qlora/adapters/merge.h"
#include "qlora/core/json.h"

namespace qlora::cli {

/// Logs how large the update is against what quantization took from the base, and warns where the choice of
/// the base or the rounding of the output matters.
void log_merge_summary(const adapters::MergeReport& report, const adapters::MergeRequest& request);

/// The command's result, one line.
Json merge_result(const adapters::MergeReport& report, const adapters::MergeRequest& request);

}  // namespace qlora::cli
