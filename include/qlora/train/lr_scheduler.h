#pragma once

#include <cstdint>

#include "qlora/train/training_config.h"

namespace qlora::train {

/// Warm-up steps of a run: `warmup_steps` itself from 1 on, else that share of the steps, rounded up.
std::int64_t warmup_steps_for(std::int64_t total_steps, const TrainingConfig& config);

/// The factor on the peak learning rate that optimizer step `step` (counted from 0) uses, equal to
/// transformers' get_scheduler: a warm-up starts at factor 0; linear and cosine end at 0 and stay there
/// beyond `total_steps`.
double lr_factor(LrSchedulerType type, std::int64_t step, std::int64_t warmup_steps,
                 std::int64_t total_steps);

}  // namespace qlora::train
