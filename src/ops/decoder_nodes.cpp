#include "qlora/ops/decoder_nodes.h"

#include "if_defined.h"
#include "norm_saved.h"
#include "projections_holder.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr const char* kPending = "pending";
constexpr const char* kResidual = "residual";
constexpr const char* kMultiplier = "multiplier";
constexpr const char* kRule = "rule";

struct NormProject : Function<NormProject> {
    static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight,
                                 const std::optional<at::Tensor>& bias,
                                 const std::optional<at::Tensor>& pending, at::TensorList /*parameters*/,
                                 const NormForm& form, const Holder& holder) {
        const RoomyRows into = projection_input(holder->value, hidden, hidden.size(1));
        const Norm norm = form.with(weight, bias);
        const NormResult normed = norm_forward(hidden, norm, into.rows(), pending.value_or(at::Tensor()));
        const at::Tensor stream = pending ? normed.sum : hidden;
        at::Tensor product;
        const at::Tensor y = project(holder->value, into.holding(normed.y), {}, 1.0, &product);
        save_with_norm(ctx, {stream, product}, {norm, normed.statistics});
        ctx->saved_data[kPending] = pending.has_value();
        save(ctx, holder);
        return {y, stream};
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor& hidden = saved[0];
        const auto [norm, statistics] = saved_norm(ctx, saved);
        // Arguments that are absent have no number.
        const bool has_bias = norm.bias.defined(), has_pending = ctx->saved_data[kPending].toBool();
        const bool wants_hidden =
            ctx->needs_input_grad(0) || (has_pending && ctx->needs_input_grad(has_bias ? 3 : 2));
        const bool wants_weight = ctx->needs_input_grad(1);
        const bool wants_bias = has_bias && ctx->needs_input_grad(2);
        ProjectionGradients made(saved_projections(ctx), grads[0], saved[1]);
        at::Tensor dx;
        if (wants_hidden || wants_weight || wants_bias) dx = made.of_input();
        variable_list parameters = made.of_parameters(norm_recompute(hidden, norm, statistics));
        at::Tensor d_hidden, d_weight, d_bias;
        if (wants_hidden) d_hidden = norm_backward(dx, hidden, norm, statistics, grads[1]);
        if (wants_weight) d_weight = norm_weight_gradient(dx, hidden, norm, statistics);
        if (wants_bias) d_bias = norm_bias_gradient(dx);
        at::Tensor d_pending;
        if (has_pending) d_pending = d_hidden;
        return gradients({d_hidden, d_weight, d_bias, d_pending}, std::move(parameters), 2);
    }
};

struct ProjectResidual : Function<ProjectResidual> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                              const std::optional<at::Tensor>& residual, at::TensorList /*parameters*/,
                              double multiplier, const Holder& holder) {
        at::Tensor product;
        const at::Tensor y = project(holder->value, x, residual.value_or(at::Tensor()), multiplier, &product);
        ctx->save_for_backward({x, product});
        ctx->saved_data[kResidual] = residual.has_value();
        ctx->saved_data[kMultiplier] = multiplier;
        save(ctx, holder);
        return y;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor& x = saved[0];
        ProjectionGradients made(saved_projections(ctx),
                                 scaled(grads[0], ctx->saved_data[kMultiplier].toDouble()), saved[1]);
        at::Tensor dx;
        if (ctx->needs_input_grad(0)) dx = made.of_input();
        const at::Tensor d_residual = ctx->saved_data[kResidual].toBool() ? grads[0] : at::Tensor();
        return gradients({dx, d_residual}, made.of_parameters(x), 2);
    }
};

struct ActivateProjectResidual : Function<ActivateProjectResidual> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& entered,
                              const std::optional<at::Tensor>& residual, at::TensorList /*parameters*/,
                              ActivationRule rule, double multiplier, const Holder& holder) {
        ctx->saved_data[kResidual] = residual.has_value();
        ctx->saved_data[kMultiplier] = multiplier;
        save_value(ctx, kRule, rule);
        save(ctx, holder);
        const RoomyRows into = projection_input(holder->value, entered, rule.size(entered.size(1)));
        at::Tensor product;
        const at::Tensor y = project(holder->value, into.holding(activate(entered, rule, into.rows())),
                                     residual.value_or(at::Tensor()), multiplier, &product);
        ctx->save_for_backward({entered, product});
        return y;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor& entered = saved[0];
        const ActivationRule rule = saved_value<ActivationRule>(ctx, kRule);
        ProjectionGradients made(saved_projections(ctx),
                                 scaled(grads[0], ctx->saved_data[kMultiplier].toDouble()), saved[1]);
        const at::Tensor d_residual = ctx->saved_data[kResidual].toBool() ? grads[0] : at::Tensor();
        if (!ctx->needs_input_grad(0)) {
            return gradients({at::Tensor(), d_residual}, made.of_parameters(activate(entered, rule)), 3);
        }
        const at::Tensor dx = made.of_input();
        const ActivationGradient inner = activate_backward(dx, entered, rule);
        return gradients({inner.entered, d_residual}, made.of_parameters(inner.y), 3);
    }
};

struct NormResidual : Function<NormResidual> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                              const std::optional<at::Tensor>& bias, const at::Tensor& residual,
                              const NormForm& form, double multiplier) {
        const Norm norm = form.with(weight, bias);
        const NormResult result = norm_added(x, norm, residual, multiplier);
        save_with_norm(ctx, {x}, {norm, result.statistics});
        ctx->saved_data[kMultiplier] = multiplier;
        return result.y;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor& x = saved[0];
        const auto [norm, statistics] = saved_norm(ctx, saved);
        const at::Tensor g = scaled(grads[0], ctx->saved_data[kMultiplier].toDouble());
        at::Tensor d_x, d_weight, d_bias;
        if (ctx->needs_input_grad(0)) d_x = norm_backward(g, x, norm, statistics);
        if (ctx->needs_input_grad(1)) d_weight = norm_weight_gradient(g, x, norm, statistics);
        if (norm.bias.defined() && ctx->needs_input_grad(2)) d_bias = norm_bias_gradient(g);
        return {d_x, d_weight, d_bias, grads[0], at::Tensor(), at::Tensor()};
    }
};

}  // namespace

NormedProjection norm_project(const at::Tensor& hidden, const Norm& norm, Projections projections,
                              const at::Tensor& pending) {
    const std::vector<at::Tensor> parameters = projections.parameters();
    const variable_list out =
        NormProject::apply(hidden, norm.weight, if_defined(norm.bias), if_defined(pending),
                           at::TensorList(parameters), NormForm(norm), hold(std::move(projections)));
    return {.y = out[0], .residual = out[1]};
}

at::Tensor project_residual(const at::Tensor& x, const at::Tensor& residual, Projections projections,
                            double multiplier) {
    const std::vector<at::Tensor> parameters = projections.parameters();
    return ProjectResidual::apply(x, if_defined(residual), at::TensorList(parameters), multiplier,
                                  hold(std::move(projections)));
}

at::Tensor activate_project_residual(const at::Tensor& entered, const at::Tensor& residual,
                                     Projections projections, ActivationRule rule, double multiplier) {
    const std::vector<at::Tensor> parameters = projections.parameters();
    return ActivateProjectResidual::apply(entered, if_defined(residual), at::TensorList(parameters), rule,
                                          multiplier, hold(std::move(projections)));
}

at::Tensor norm_residual(const at::Tensor& x, const Norm& norm, const at::Tensor& residual,
                         double multiplier) {
    return NormResidual::apply(x, norm.weight, if_defined(norm.bias), residual, NormForm(norm), multiplier);
}

}  // namespace qlora::ops
