#pragma once

#include "qlora/cli/run_config.h"
#include "qlora/data/batch_plan.h"

namespace qlora::cli {

/// The settings that shape micro-batches.
data::BatchPlanOptions batch_plan_options(const RunConfig& config);

}  // namespace qlora::cli
