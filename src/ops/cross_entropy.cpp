#include "qlora/ops/cross_entropy.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "qlora/ops/linear.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// fp32 logits of rows [begin, begin + n), rounded to the compute dtype first.
at::Tensor logits_of(const at::Tensor& hidden, const at::Tensor& head, std::int64_t begin, std::int64_t n) {
    return matmul_fp32(hidden.narrow(0, begin, n), head.t(), hidden.scalar_type()).to(at::kFloat);
}

/// Turns a chunk's logits [n, V] into softmax - onehot in place and returns the sum of its losses.
double softmax_minus_onehot_(at::Tensor& logits, const at::Tensor& targets) {
    const std::int64_t n = logits.size(0), vocabulary = logits.size(1);
    float* data = logits.mutable_data_ptr<float>();
    const std::int64_t* target = targets.const_data_ptr<std::int64_t>();
    const at::Tensor log_sum = at::logsumexp(logits, {1}, true);
    const at::Tensor picked = logits.gather(1, targets.unsqueeze(1));
    const at::Tensor row_loss = (log_sum - picked).to(at::kDouble);
    logits.sub_(log_sum).exp_();
    for (std::int64_t row = 0; row < n; ++row) data[row * vocabulary + target[row]] -= 1.0F;
    return row_loss.sum().item<double>();
}

struct Result {
    double loss = 0.0;
    at::Tensor gradient_hidden, gradient_head;
};

Result run(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, bool want_hidden,
           bool want_head) {
    Result result;
    const std::int64_t rows = hidden.size(0);
    if (want_hidden) result.gradient_hidden = at::empty_like(hidden);
    if (want_head) result.gradient_head = at::zeros_like(head);
    for (std::int64_t begin = 0; begin < rows; begin += kLogitsChunkRows) {
        const std::int64_t n = std::min(kLogitsChunkRows, rows - begin);
        at::Tensor logits = logits_of(hidden, head, begin, n);
        result.loss += softmax_minus_onehot_(logits, targets.narrow(0, begin, n));
        if (!want_hidden && !want_head) continue;
        // The gradient of bf16 logits is bf16, as autograd's would be.
        if (hidden.scalar_type() != at::kFloat) logits = logits.to(hidden.scalar_type()).to(at::kFloat);
        if (want_hidden) result.gradient_hidden.narrow(0, begin, n).copy_(at::mm(logits, head));
        if (want_head) result.gradient_head.addmm_(logits.t(), hidden.narrow(0, begin, n).to(at::kFloat));
    }
    return result;
}

at::Tensor scalar_of(double value) {
    return at::scalar_tensor(value, at::TensorOptions().dtype(at::kFloat));
}

struct LinearCrossEntropy : Function<LinearCrossEntropy> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& targets,
                              const FrozenWeight* head, bool want_gradient) {
        Result result = run(hidden, head->dense(), targets, want_gradient, false);
        ctx->save_for_backward({result.gradient_hidden});
        return scalar_of(result.loss);
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        return {(saved[0] * grads[0]).to(saved[0].scalar_type()), at::Tensor(), at::Tensor(), at::Tensor()};
    }
};

struct TrainableCrossEntropy : Function<TrainableCrossEntropy> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& head,
                              const at::Tensor& targets, bool want_hidden, bool want_head) {
        Result result = run(hidden, head, targets, want_hidden, want_head);
        ctx->save_for_backward({result.gradient_hidden, result.gradient_head});
        return scalar_of(result.loss);
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        at::Tensor gradient_hidden, gradient_head;
        if (saved[0].defined()) gradient_hidden = (saved[0] * grads[0]).to(saved[0].scalar_type());
        if (saved[1].defined()) gradient_head = saved[1] * grads[0];
        return {gradient_hidden, gradient_head, at::Tensor(), at::Tensor(), at::Tensor()};
    }
};

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const FrozenWeight& head,
                                const at::Tensor& targets) {
    const bool want_gradient = at::GradMode::is_enabled() && hidden.requires_grad();
    return LinearCrossEntropy::apply(hidden, targets, &head, want_gradient);
}

at::Tensor trainable_linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& head,
                                          const at::Tensor& targets) {
    const bool on = at::GradMode::is_enabled();
    return TrainableCrossEntropy::apply(hidden, head, targets, on && hidden.requires_grad(),
                                        on && head.requires_grad());
}

TokenScores score_tokens(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets) {
    const std::int64_t rows = hidden.size(0);
    TokenScores scores{.logprobs = at::empty({rows}, at::kFloat), .correct = at::empty({rows}, at::kBool)};
    for (std::int64_t begin = 0; begin < rows; begin += kLogitsChunkRows) {
        const std::int64_t n = std::min(kLogitsChunkRows, rows - begin);
        const at::Tensor logits = logits_of(hidden, head, begin, n);
        const at::Tensor target = targets.narrow(0, begin, n);
        const at::Tensor picked = logits.gather(1, target.unsqueeze(1)).squeeze(1);
        scores.logprobs.narrow(0, begin, n).copy_(picked - at::logsumexp(logits, {1}));
        scores.correct.narrow(0, begin, n).copy_(logits.argmax(1).eq(target));
    }
    return scores;
}

}  // namespace qlora::ops
