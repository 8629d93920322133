#include "qlora/ops/norm.h"

#include <ATen/TensorOperators.h>

#include "backend.h"
#include "if_defined.h"
#include "norm_backends.h"
#include "norm_saved.h"

namespace qlora::ops {

NormResult norm_forward(const at::Tensor& x, const Norm& norm, const at::Tensor& into,
                        const at::Tensor& residual) {
    const auto forward = of_backend(x, in_fp32::norm_forward, in_bf16::norm_forward, on_device::norm_forward);
    return forward(x, norm, {.into = into, .residual = residual});
}

NormResult norm_added(const at::Tensor& x, const Norm& norm, const at::Tensor& added, double multiplier) {
    const auto forward = of_backend(x, in_fp32::norm_forward, in_bf16::norm_forward, on_device::norm_forward);
    return forward(x, norm, {.added = added, .multiplier = multiplier});
}

at::Tensor norm_recompute(const at::Tensor& x, const Norm& norm, const NormStatistics& statistics) {
    return of_backend(x, in_fp32::norm_recompute, in_bf16::norm_recompute, on_device::norm_recompute)(
        x, norm, statistics);
}

at::Tensor norm_backward(const at::Tensor& dy, const at::Tensor& x, const Norm& norm,
                         const NormStatistics& statistics, const at::Tensor& residual) {
    const auto backward =
        of_backend(x, in_fp32::norm_backward, in_bf16::norm_backward, on_device::norm_backward);
    return backward(dy, x, norm, statistics, residual);
}

at::Tensor norm_weight_gradient(const at::Tensor& dy, const at::Tensor& x, const Norm& norm,
                                const NormStatistics& statistics) {
    const at::Tensor wide = x.to(at::kFloat);
    at::Tensor n = (statistics.mean.defined() ? wide - statistics.mean.unsqueeze(1) : wide) *
                   statistics.inverse.unsqueeze(1);
    if (norm.kind == kernels::NormKind::kRms) n = n.to(x.scalar_type());
    return (dy.to(at::kFloat) * n).sum(0);
}

at::Tensor norm_bias_gradient(const at::Tensor& dy) {
    return dy.sum(0, false, at::kFloat);
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct NormNode : Function<NormNode> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                              const std::optional<at::Tensor>& bias, const NormForm& form) {
        const Norm norm = form.with(weight, bias);
        const NormResult result = norm_forward(x.reshape({-1, x.size(-1)}), norm);
        save_with_norm(ctx, {x}, {norm, result.statistics});
        return result.y.view(x.sizes());
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const auto [norm, statistics] = saved_norm(ctx, saved);
        const at::Tensor x = saved[0].reshape({-1, saved[0].size(-1)});
        const at::Tensor dy = grads[0].reshape(x.sizes());
        at::Tensor gx, gw, gb;
        if (ctx->needs_input_grad(0)) gx = norm_backward(dy, x, norm, statistics).view(saved[0].sizes());
        if (ctx->needs_input_grad(1)) gw = norm_weight_gradient(dy, x, norm, statistics);
        if (norm.bias.defined() && ctx->needs_input_grad(2)) gb = norm_bias_gradient(dy);
        return {gx, gw, gb, at::Tensor()};
    }
};

}  // namespace

at::Tensor normed(const at::Tensor& x, const Norm& norm) {
    return NormNode::apply(x, norm.weight, if_defined(norm.bias), NormForm(norm));
}

}  // namespace qlora::ops
