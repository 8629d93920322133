#include "qlora/ops/decoder_nodes.h"

#include "if_defined.h"
#include "norm_saved.h"
#include "projections_holder.h"
#include "qlora/ops/activation.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr const char* kPending = "pending";

struct NormProject : Function<NormProject> {
    static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight,
                                 const std::optional<at::Tensor>& bias,
                                 const std::optional<at::Tensor>& pending, at::TensorList /*parameters*/,
                                 const NormForm& form, const Holder& holder) {
        const RoomyRows into = projection_input(holder->value, hidden, hidden.size(1));
        const Norm norm = form.with(weight, bias);
        const NormResult normed = norm_forward(hidden, norm, into.rows(), pending.value_or(at::Tensor()));
        const at::Tensor stream = pending ? normed.sum : hidden;
        save_with_norm(ctx, {stream}, {norm, normed.statistics});
        ctx->saved_data[kPending] = pending.has_value();
        save(ctx, holder);
        return {project(holder->value, into.holding(normed.y)), stream};
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor& hidden = saved[0];
        const auto [norm, statistics] = saved_norm(ctx, saved);
        const Projections& projections = saved_projections(ctx);
        // Arguments that are absent have no number.
        const bool has_bias = norm.bias.defined(), has_pending = ctx->saved_data[kPending].toBool();
        const bool wants_hidden =
            ctx->needs_input_grad(0) || (has_pending && ctx->needs_input_grad(has_bias ? 3 : 2));
        const bool wants_weight = ctx->needs_input_grad(1);
        const bool wants_bias = has_bias && ctx->needs_input_grad(2);
        at::Tensor dx, low_rank;
        if (wants_hidden || wants_weight || wants_bias) {
            dx = project_backward(projections, grads[0], &low_rank);
        }
        variable_list parameters =
            parameter_gradients(projections, norm_recompute(hidden, norm, statistics), grads[0], low_rank);
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
                              const Holder& holder) {
        ctx->save_for_backward({x});
        ctx->saved_data[kPending] = residual.has_value();
        save(ctx, holder);
        return project(holder->value, x, residual.value_or(at::Tensor()));
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const at::Tensor x = ctx->get_saved_variables()[0];
        const Projections& projections = saved_projections(ctx);
        at::Tensor dx, low_rank;
        if (ctx->needs_input_grad(0)) dx = project_backward(projections, grads[0], &low_rank);
        const at::Tensor d_residual = ctx->saved_data[kPending].toBool() ? grads[0] : at::Tensor();
        return gradients({dx, d_residual}, parameter_gradients(projections, x, grads[0], low_rank), 1);
    }
};

struct SwigluProjectResidual : Function<SwigluProjectResidual> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up, const at::Tensor& residual,
                              at::TensorList /*parameters*/, const Holder& holder) {
        ctx->save_for_backward({gate_up});
        save(ctx, holder);
        const RoomyRows into = projection_input(holder->value, gate_up, gate_up.size(1) / 2);
        return project(holder->value, into.holding(activate(gate_up, {}, into.rows())), residual);
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const at::Tensor gate_up = ctx->get_saved_variables()[0];
        const Projections& projections = saved_projections(ctx);
        if (!ctx->needs_input_grad(0)) {
            return gradients({at::Tensor(), grads[0]},
                             parameter_gradients(projections, activate(gate_up, {}), grads[0]), 1);
        }
        at::Tensor low_rank;
        const at::Tensor dx = project_backward(projections, grads[0], &low_rank);
        const ActivationGradient inner = activate_backward(dx, gate_up, {});
        return gradients({inner.entered, grads[0]},
                         parameter_gradients(projections, inner.y, grads[0], low_rank), 1);
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

at::Tensor project_residual(const at::Tensor& x, const at::Tensor& residual, Projections projections) {
    const std::vector<at::Tensor> parameters = projections.parameters();
    return ProjectResidual::apply(x, if_defined(residual), at::TensorList(parameters),
                                  hold(std::move(projections)));
}

at::Tensor swiglu_project_residual(const at::Tensor& gate_up, const at::Tensor& residual,
                                   Projections projections) {
    const std::vector<at::Tensor> parameters = projections.parameters();
    return SwigluProjectResidual::apply(gate_up, residual, at::TensorList(parameters),
                                        hold(std::move(projections)));
}

}  // namespace qlora::ops
