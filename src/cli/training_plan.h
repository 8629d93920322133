#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qlora/adapters/plan.h"
#include "qlora/cli/run_config.h"
#include "qlora/data/batch_plan.h"
#include "qlora/data/sft_dataset.h"
#include "qlora/models/decoder_spec.h"
#include "qlora/train/memory_plan.h"

namespace qlora::cli {

/// What shapes micro-batches. Tokens that an adapter puts before each row run through all layers as others
/// do.
data::BatchPlanOptions batch_plan_options(const RunConfig& config, const adapters::Plan& adapter);

/// What memory depends on in each training row, and what all rows take of it.
struct RowLengths {
    std::vector<std::int64_t> tokens, supervised;
    std::int64_t held_bytes = 0;
};
/// `held_out` may be null.
RowLengths row_lengths(const data::Dataset& train, const data::Dataset* held_out);

/// What a run's memory is planned from; the way it uses memory is left at its defaults.
train::MemoryRequest memory_request(const RunConfig& config, const models::DecoderSpec& model,
                                    const RowLengths& rows, at::Device device);
/// The two parts of it that take time: what depends on the rows, and what depends on `peft`.
void set_micro_batch(train::MemoryRequest& request, const RunConfig& config, const RowLengths& rows);
void set_trained(train::MemoryRequest& request, const RunConfig& config, const models::DecoderSpec& model);

/// The learning rate that LoRA+ gives LoRA on an embedding, in a sentence; empty without both.
std::string embedding_rate_text(const train::TrainingConfig& training, const adapters::Plan& plan);

}  // namespace qlora::cli
