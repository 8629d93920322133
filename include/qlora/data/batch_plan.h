#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace qlora::data {

struct BatchPlanOptions {
    std::int64_t per_device_train_batch_size = 1;  ///< rows per micro-batch, when max_tokens_per_batch is 0
    std::int64_t max_tokens_per_batch = 0;         ///< > 0: micro-batches are filled up to this many tokens
    std::int64_t tokens_before = 0;                ///< what an adapter puts before each row counts there too
    std::int64_t gradient_accumulation_steps = 1;
    bool group_by_length = false;
    bool shuffle = true;
    std::uint64_t seed = 42;
};

/// One optimizer step: its micro-batches, each a list of places in the example list.
struct StepPlan {
    std::vector<std::vector<std::int64_t>> micro_batches;
};

/// The steps of one epoch: a pure function of its arguments (permutation by the counter-based generator keyed
/// by seed and epoch), so a resumed run rebuilds it. `lengths[i]` = tokens of example i. Accumulation never
/// crosses the epoch: the last step may hold fewer micro-batches, the last micro-batch fewer rows. Steps =
/// ceil(ceil(rows / batch) / accumulation), as in transformers' Trainer.
std::vector<StepPlan> plan_epoch(std::span<const std::int64_t> lengths, const BatchPlanOptions& options,
                                 std::int64_t epoch);

/// plan_epoch's number of steps; without a plan where micro-batches are filled by rows.
std::int64_t steps_of_epoch(std::span<const std::int64_t> lengths, const BatchPlanOptions& options,
                            std::int64_t epoch);

}  // namespace qlora::data
