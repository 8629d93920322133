#include "qlora/ops/cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "backend.h"
#include "cross_entropy_backends.h"
#include "if_defined.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

HeadLoss head_loss(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,
                   const LogitRule& rule, WantedGradients wanted) {
    return of_backend(hidden, in_fp32::head_loss, in_bf16::head_loss, on_device::head_loss)(
        hidden, head, targets, rule, wanted);
}

struct LinearCrossEntropy : Function<LinearCrossEntropy> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& targets,
                              const FrozenWeight* head, const LogitRule* rule, bool want_gradient) {
        const HeadLoss result = head_loss(hidden, *head, targets, *rule, {.hidden = want_gradient});
        ctx->save_for_backward({result.gradient_hidden});
        return result.loss;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        variable_list gradients(5);
        gradients[0] = (saved[0] * grads[0]).to(saved[0].scalar_type());
        return gradients;
    }
};

/// The parameters of the rule's low rank are inputs besides: A, B, and a bias if there is one.
struct AdaptedCrossEntropy : Function<AdaptedCrossEntropy> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& /*a*/,
                              const at::Tensor& /*b*/, const std::optional<at::Tensor>& /*bias*/,
                              const at::Tensor& targets, const FrozenWeight* head, const LogitRule* rule,
                              bool want_hidden, bool want_low_rank) {
        const HeadLoss result =
            head_loss(hidden, *head, targets, *rule, {.hidden = want_hidden, .low_rank = want_low_rank});
        variable_list saved = {result.gradient_hidden};
        saved.insert(saved.end(), result.of_low_rank.begin(), result.of_low_rank.end());
        ctx->save_for_backward(saved);
        return result.loss;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        variable_list gradients(9);
        if (saved[0].defined()) gradients[0] = (saved[0] * grads[0]).to(saved[0].scalar_type());
        for (std::size_t i = 1; i < saved.size(); ++i) gradients[i] = saved[i] * grads[0];
        return gradients;
    }
};

struct TrainableCrossEntropy : Function<TrainableCrossEntropy> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& head,
                              const at::Tensor& targets, const LogitRule* rule, bool want_hidden,
                              bool want_head) {
        const HeadLoss result =
            head_loss(hidden, TrainedHead(head), targets, *rule, {.hidden = want_hidden, .head = want_head});
        ctx->save_for_backward({result.gradient_hidden, result.gradient_head});
        return result.loss;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        variable_list gradients(6);
        if (saved[0].defined()) gradients[0] = (saved[0] * grads[0]).to(saved[0].scalar_type());
        if (saved[1].defined()) gradients[1] = saved[1] * grads[0];
        return gradients;
    }
};

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,
                                const LogitRule& rule) {
    const bool want_gradient = at::GradMode::is_enabled() && hidden.requires_grad();
    if (rule.low_rank) {
        const LowRank& adapter = *rule.low_rank;
        const bool trains = at::GradMode::is_enabled() && adapter.b.requires_grad();
        return AdaptedCrossEntropy::apply(hidden, adapter.a, adapter.b, if_defined(adapter.bias), targets,
                                          &head, &rule, want_gradient, trains);
    }
    return LinearCrossEntropy::apply(hidden, targets, &head, &rule, want_gradient);
}

at::Tensor trainable_linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& head,
                                          const at::Tensor& targets, const LogitRule& rule) {
    const bool on = at::GradMode::is_enabled();
    return TrainableCrossEntropy::apply(hidden, head, targets, &rule, on && hidden.requires_grad(),
                                        on && head.requires_grad());
}

at::Tensor head_logits(const at::Tensor& hidden, const FrozenWeight& head, const LogitRule& rule) {
    const at::AutoGradMode no_gradients(false);
    return of_backend(hidden, in_fp32::head_logits, in_bf16::head_logits, on_device::head_logits)(hidden,
                                                                                                  head, rule);
}

TokenScores score_tokens(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,
                         const LogitRule& rule) {
    const at::AutoGradMode no_gradients(false);
    return of_backend(hidden, in_fp32::score_tokens, in_bf16::score_tokens, on_device::score_tokens)(
        hidden, head, targets, rule);
}

}  // namespace qlora::ops
