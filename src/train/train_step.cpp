#include "qlora/train/train_step.h"

#include <ATen/ops/full_like.h>

#include "qlora/eval/token_batch.h"
#include "qlora/ops/routing.h"

namespace qlora::train {

StepGradients accumulate_gradients(const models::CausalLM& model, std::span<const data::Example> examples,
                                   const data::StepPlan& plan, nn::ForwardContext context, double loss_scale,
                                   const std::function<bool()>& should_stop, double router_aux_loss_coef) {
    std::vector<data::Batch> batches;
    StepGradients result;
    for (const std::vector<std::int64_t>& places : plan.micro_batches) {
        std::vector<const data::Example*> rows;
        for (const std::int64_t place : places) rows.push_back(&examples[static_cast<std::size_t>(place)]);
        batches.push_back(data::collate(rows));
        result.tokens += batches.back().tokens();
        result.supervised_tokens += batches.back().supervised_tokens();
    }
    const double router_share = router_aux_loss_coef / static_cast<double>(batches.size());
    std::vector<at::Tensor> losses, router_losses;  // read at the end: a GPU is not waited for in between
    for (const data::Batch& batch : batches) {
        if (batch.supervised_tokens() > 0) {
            const models::TokenBatch there = eval::token_batch(batch, model.device());
            if (router_aux_loss_coef > 0) context.router_balance = std::make_shared<ops::RouterBalance>();
            const at::Tensor hidden = model.forward(there, context, there.rows);
            const at::Tensor loss = model.loss_sum(hidden, there.targets, context);
            losses.push_back(loss.detach());
            if (context.router_balance) {
                context.router_balance->set_scale(loss_scale * router_share);
                router_losses.push_back(context.router_balance->loss());
            }
            loss.backward(at::full_like(loss, loss_scale / static_cast<double>(result.supervised_tokens)));
        }
        ++context.micro_step;
        if (should_stop && should_stop()) {
            result.stopped = true;
            return result;
        }
    }
    double loss_sum = 0.0;
    for (const at::Tensor& loss : losses) loss_sum += loss.item<double>();
    if (result.supervised_tokens > 0) result.loss = loss_sum / static_cast<double>(result.supervised_tokens);
    for (const at::Tensor& loss : router_losses) result.loss += router_share * loss.item<double>();
    return result;
}

}  // namespace qlora::train
