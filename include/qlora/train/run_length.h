#pragma once

#include <cstdint>
#include <functional>

#include "qlora/train/training_config.h"

namespace qlora::train {

/// Optimizer steps of a run: `max_steps` where it is set, else those of `num_train_epochs`, a part of an
/// epoch rounded up. `steps_of_epoch(epoch)`: steps of a whole epoch, counted from 0. Where all epochs have
/// as many, it is transformers' ceil(num_train_epochs * steps).
std::int64_t steps_of_run(const TrainingConfig& config,
                          const std::function<std::int64_t(std::int64_t epoch)>& steps_of_epoch);

}  // namespace qlora::train
