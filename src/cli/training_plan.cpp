#include "training_plan.h"

namespace qlora::cli {

data::BatchPlanOptions batch_plan_options(const RunConfig& config) {
    return {.per_device_train_batch_size = config.training.per_device_train_batch_size,
            .max_tokens_per_batch = config.data.max_tokens_per_batch.value_or(0),
            .gradient_accumulation_steps = config.training.gradient_accumulation_steps,
            .group_by_length = config.data.group_by_length,
            .seed = static_cast<std::uint64_t>(config.training.seed)};
}

}  // namespace qlora::cli
