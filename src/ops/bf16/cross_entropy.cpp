#include <ATen/TensorOperators.h>
#include <ATen/ops/tanh_backward.h>

#include "../cpu_head.h"
#include "qlora/kernels/elementwise.h"

namespace qlora::ops::in_bf16 {
namespace {

/// Every result is rounded to `dtype`, as LibTorch's operations on tensors of it are, and their gradients.
/// mul_ by a number would round that to the dtype too, which the operators do not.
class RoundedHead final : public CpuHead {
  public:
    RoundedHead(const FrozenWeight& head, const LogitRule& rule, at::ScalarType dtype)
        : CpuHead(head, rule), dtype_(dtype) {}

  private:
    void finish(const at::Tensor& logits) const override { finished(logits); }

    double softmax(const at::Tensor& logits, const at::Tensor& targets, bool wants_gradient) const override {
        const at::Tensor tanh = finished(logits);
        const std::int64_t vocabulary = logits.size(1);
        const double loss =
            sum_of_rows(logits, targets, [&](float* row, const std::int64_t* target, double* place) {
                kernels::cpu::softmax_cross_entropy(row, target, 1, vocabulary, place);
            });
        if (!wants_gradient) return loss;
        // The gradient of bf16 logits is bf16, as autograd's would be.
        at::Tensor gradient = logits.to(dtype_);
        if (tanh.defined()) {
            gradient = at::tanh_backward(gradient * rule().softcap, tanh) / rule().softcap;
        }
        if (rule().scale != 1.0) gradient = gradient * rule().scale;
        logits.copy_(gradient);
        return loss;
    }

    /// The tanh of a softcap.
    at::Tensor finished(const at::Tensor& logits) const {
        at::Tensor rounded = logits.to(dtype_), tanh;
        if (rule().scale != 1.0) rounded = rounded * rule().scale;
        if (rule().softcap != 0.0) {
            tanh = (rounded / rule().softcap).tanh_();
            rounded = tanh * rule().softcap;
        }
        logits.copy_(rounded);
        return tanh;
    }

    at::ScalarType dtype_;
};

}  // namespace

HeadLoss head_loss(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,
                   const LogitRule& rule, WantedGradients wanted) {
    return RoundedHead(head, rule, hidden.scalar_type()).loss(hidden, targets, wanted);
}

at::Tensor head_logits(const at::Tensor& hidden, const FrozenWeight& head, const LogitRule& rule) {
    return RoundedHead(head, rule, hidden.scalar_type()).logits(hidden);
}

TokenScores score_tokens(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,
                         const LogitRule& rule) {
    return RoundedHead(head, rule, hidden.scalar_type()).score(hidden, targets);
}

}  // namespace qlora::ops::in_bf16
