#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "qlora/data/batch.h"
#include "qlora/data/batch_plan.h"
#include "qlora/models/causal_lm.h"

namespace qlora::train {

/// What the gradients of one optimizer step came from.
struct StepGradients {
    /// Cross-entropy summed over the step's supervised tokens / their number, and what routers add.
    double loss = 0.0;
    std::int64_t tokens = 0;
    std::int64_t supervised_tokens = 0;
    bool stopped = false;  ///< `should_stop` ended it between micro-batches: the gradients are incomplete
};

/// Adds the gradients of a whole optimizer step to the parameters: forward and backward of each micro-batch,
/// every loss divided by the supervised tokens of the *step*, so 1 x 8 equals 8 x 1. `context.micro_step` is
/// that of the first. Gradients, not the loss reported, are multiplied by `loss_scale`. With a
/// `router_aux_loss_coef` above 0, so many times the mean over micro-batches of ops::RouterBalance's loss is
/// added.
StepGradients accumulate_gradients(const models::CausalLM& model, std::span<const data::Example> examples,
                                   const data::StepPlan& plan, nn::ForwardContext context, double loss_scale,
                                   const std::function<bool()>& should_stop,
                                   double router_aux_loss_coef = 0.0);

}  // namespace qlora::train
