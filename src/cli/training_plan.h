#pragma once

#include <cstdint>
#include <vector>

#include "qlora/cli/run_config.h"
#include "qlora/data/batch_plan.h"
#include "qlora/data/sft_dataset.h"
#include "qlora/models/model_config.h"
#include "qlora/train/memory_plan.h"

namespace qlora::cli {

/// The settings that shape micro-batches.
data::BatchPlanOptions batch_plan_options(const RunConfig& config);

/// What memory depends on in each training row.
struct RowLengths {
    std::vector<std::int64_t> tokens, supervised;
};
RowLengths row_lengths(const data::Dataset& dataset);

/// What a run's memory is planned from; the way it uses memory is left at its defaults.
train::MemoryRequest memory_request(const RunConfig& config, const models::ModelConfig& model,
                                    const RowLengths& rows, at::Device device);

}  // namespace qlora::cli
