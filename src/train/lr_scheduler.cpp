#include "qlora/train/lr_scheduler.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace qlora::train {
namespace {

// Share of the way from the end of the warm-up to the last step; beyond 1 past it.
double progress_after_warmup(std::int64_t step, std::int64_t warmup_steps, std::int64_t total_steps) {
    const std::int64_t length = std::max<std::int64_t>(1, total_steps - warmup_steps);
    return static_cast<double>(step - warmup_steps) / static_cast<double>(length);
}

double linear_factor(std::int64_t step, std::int64_t warmup_steps, std::int64_t total_steps) {
    const std::int64_t length = std::max<std::int64_t>(1, total_steps - warmup_steps);
    return std::max(0.0, static_cast<double>(total_steps - step) / static_cast<double>(length));
}

// Half a period. Past the last step the cosine would rise again; the rate stays at its end value instead.
double cosine_factor(std::int64_t step, std::int64_t warmup_steps, std::int64_t total_steps) {
    const double progress = std::min(1.0, progress_after_warmup(step, warmup_steps, total_steps));
    return std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

}  // namespace

std::int64_t warmup_steps_for(std::int64_t total_steps, const TrainingConfig& config) {
    if (config.lr_scheduler_type == LrSchedulerType::kConstant) return 0;
    if (config.warmup_steps >= 1) return static_cast<std::int64_t>(config.warmup_steps);
    return static_cast<std::int64_t>(std::ceil(static_cast<double>(total_steps) * config.warmup_steps));
}

double lr_factor(LrSchedulerType type, std::int64_t step, std::int64_t warmup_steps,
                 std::int64_t total_steps) {
    if (type != LrSchedulerType::kConstant && step < warmup_steps) {
        return static_cast<double>(step) / static_cast<double>(std::max<std::int64_t>(1, warmup_steps));
    }
    switch (type) {
        case LrSchedulerType::kLinear:
            return linear_factor(step, warmup_steps, total_steps);
        case LrSchedulerType::kCosine:
            return cosine_factor(step, warmup_steps, total_steps);
        case LrSchedulerType::kConstant:
        case LrSchedulerType::kConstantWithWarmup:
            return 1.0;
    }
    return 1.0;
}

}  // namespace qlora::train
