#pragma once

#include <cstdint>
#include <string>

#include "qlora/train/training_config.h"

namespace qlora::train {

/// Warm-up steps of a run: `warmup_steps` itself from 1 on, else that share of the steps, rounded up.
std::int64_t warmup_steps_for(std::int64_t total_steps, const TrainingConfig& config);

/// The factor on the peak learning rate that optimizer step `step` (counted from 0) uses, equal to
/// transformers' get_scheduler for steps up to `total_steps`. A warm-up starts at factor 0, unless
/// lr_scheduler_kwargs say otherwise; linear and cosine end at 0 and stay there.
double lr_factor(const TrainingConfig& config, std::int64_t step, std::int64_t warmup_steps,
                 std::int64_t total_steps);

/// Faults of lr_scheduler_kwargs: keywords that the schedule does not take, those it needs, and values that
/// contradict the learning rate.
void check_lr_scheduler(const TrainingConfig& config, const std::string& path, FaultList& faults);

}  // namespace qlora::train
