#include "qlora/ops/bottleneck.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include "qlora/ops/activation.h"
#include "qlora/ops/device.h"
#include "qlora/ops/gemm.h"
#include "saved_value.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// x in the dtype of the products.
at::Tensor as_factor(const at::Tensor& x) {
    return device_kernels(x) != nullptr ? x : fp32(x);
}

/// x weight^T + bias; x as as_factor gives it.
at::Tensor with_bias(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    if (device_kernels(x) == nullptr) return product(x, weight.t()).add_(bias);
    return at::addmm(bias.to(x.scalar_type()), x, weight.to(x.scalar_type()).t());
}

at::Tensor through_weight(const at::Tensor& g, const at::Tensor& weight) {
    if (device_kernels(g) == nullptr) return product(g, weight);
    return at::mm(g, weight.to(g.scalar_type()));
}

at::Tensor of_weight(const at::Tensor& g, const at::Tensor& x) {
    return device_kernels(g) == nullptr ? product(g.t(), x) : mm_to_fp32(g.t(), x);
}

ActivationRule kernel_rule(BottleneckActivation activation) {
    using kernels::Activation;
    const bool is_silu = activation == BottleneckActivation::kSilu;
    const Activation gelu =
        activation == BottleneckActivation::kGelu ? Activation::kGelu : Activation::kGeluTanh;
    return {.kind = is_silu ? Activation::kSilu : gelu, .gated = false};
}

at::Tensor activated(const at::Tensor& z, BottleneckActivation activation) {
    if (activation == BottleneckActivation::kRelu) return at::relu(z);
    if (activation == BottleneckActivation::kTanh) return at::tanh(z);
    return activate(z, kernel_rule(activation));
}

/// The gradient of z, and the forward result again.
ActivationGradient activated_backward(const at::Tensor& g, const at::Tensor& z,
                                      BottleneckActivation activation) {
    if (activation == BottleneckActivation::kRelu)
        return {.entered = at::threshold_backward(g, z, 0), .y = at::relu(z)};
    if (activation == BottleneckActivation::kTanh) {
        const at::Tensor y = at::tanh(z);
        return {.entered = at::tanh_backward(g, y), .y = y};
    }
    return activate_backward(g, z, kernel_rule(activation));
}

/// fp32 sums over rows. LibTorch's on the CPU would depend on the number of threads where columns are few and
/// odd, as those of a narrow network.
at::Tensor sum_rows(const at::Tensor& rows) {
    if (device_kernels(rows) != nullptr) return rows.sum(0, false, at::kFloat);
    return product(at::ones({1, rows.size(0)}, at::kFloat), rows).squeeze(0);
}

struct BottleneckNode : Function<BottleneckNode> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& start, const at::Tensor& x,
                              const at::Tensor& down, const at::Tensor& down_bias, const at::Tensor& up,
                              const at::Tensor& up_bias, const BottleneckRule& rule) {
        const at::Tensor z = with_bias(as_factor(x), down, down_bias);
        const at::Tensor y =
            apply_dropout(with_bias(activated(z, rule.activation), up, up_bias), rule.dropout);
        ctx->save_for_backward({x, z, down, up});
        save_value(ctx, "rule", rule);
        return at::add(start, y, rule.scaling).to(start.scalar_type());
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor &x = saved[0], &z = saved[1], &down = saved[2], &up = saved[3];
        const auto& rule = saved_value<BottleneckRule>(ctx, "rule");
        at::Tensor g = apply_dropout(as_factor(grads[0].contiguous()), rule.dropout);
        if (rule.scaling != 1.0) g = g * rule.scaling;
        const ActivationGradient of_z = activated_backward(through_weight(g, up), z, rule.activation);
        at::Tensor of_x;
        if (ctx->needs_input_grad(1)) of_x = through_weight(of_z.entered, down).to(x.scalar_type());
        return {grads[0],
                of_x,
                of_weight(of_z.entered, as_factor(x)),
                sum_rows(of_z.entered),
                of_weight(g, of_z.y),
                sum_rows(g),
                at::Tensor()};
    }
};

}  // namespace

at::Tensor bottleneck(const at::Tensor& start, const at::Tensor& x, const BottleneckWeights& weights,
                      const BottleneckRule& rule) {
    return BottleneckNode::apply(start, x, weights.down, weights.down_bias, weights.up, weights.up_bias,
                                 rule);
}

}  // namespace qlora::ops
