#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>

#include "../activation_backends.h"

namespace qlora::ops::in_bf16 {
namespace {

using kernels::Activation;

const char* gelu_form(Activation kind) {
    return kind == Activation::kGeluTanh ? "tanh" : "none";
}

/// Rounded once.
at::Tensor activated(const at::Tensor& x, Activation kind) {
    return kind == Activation::kSilu ? at::silu(x) : at::gelu(x, gelu_form(kind));
}

at::Tensor activated_backward(const at::Tensor& g, const at::Tensor& x, Activation kind) {
    return kind == Activation::kSilu ? at::silu_backward(g, x) : at::gelu_backward(g, x, gelu_form(kind));
}

}  // namespace

at::Tensor activate(const at::Tensor& entered, ActivationRule rule, const at::Tensor& /*into*/) {
    if (!rule.gated) return activated(entered, rule.kind);
    const std::int64_t size = rule.size(entered.size(1));
    return activated(entered.narrow(1, 0, size), rule.kind).mul_(entered.narrow(1, size, size));
}

ActivationGradient activate_backward(const at::Tensor& g, const at::Tensor& entered, ActivationRule rule) {
    if (!rule.gated) {
        return {.entered = activated_backward(g, entered, rule.kind), .y = activated(entered, rule.kind)};
    }
    const std::int64_t size = rule.size(entered.size(1));
    const at::Tensor gate = entered.narrow(1, 0, size), up = entered.narrow(1, size, size);
    const at::Tensor activation = activated(gate, rule.kind);
    return {.entered = at::cat({activated_backward(g * up, gate, rule.kind), activation * g}, 1),
            .y = activation * up};
}

}  // namespace qlora::ops::in_bf16
