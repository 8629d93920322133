#include "qlora/ops/decoder_nodes.h"

#include "projections_holder.h"
#include "qlora/ops/rms_norm.h"
#include "qlora/ops/swiglu.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct NormProject : Function<NormProject> {
    static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight,
                                 at::TensorList /*parameters*/, double eps, const Holder& holder) {
        const NormResult normed = rms_norm_forward(hidden, weight, eps);
        ctx->save_for_backward({hidden, weight, normed.inverse});
        save(ctx, holder);
        return {project(holder->value, normed.y), hidden};
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor &hidden = saved[0], &weight = saved[1], &inverse = saved[2];
        const Projections& projections = saved_projections(ctx);
        const bool wants_hidden = ctx->needs_input_grad(0), wants_weight = ctx->needs_input_grad(1);
        at::Tensor dx;
        if (wants_hidden || wants_weight) dx = project_backward(projections, grads[0]);
        variable_list parameters =
            parameter_gradients(projections, rms_norm_again(hidden, weight, inverse), grads[0]);
        at::Tensor d_hidden, d_weight;
        if (wants_hidden) d_hidden = rms_norm_backward(dx, hidden, weight, inverse, grads[1]);
        if (wants_weight) d_weight = rms_norm_weight_gradient(dx, hidden, weight, inverse);
        return gradients({d_hidden, d_weight}, std::move(parameters), 2);
    }
};

struct ProjectResidual : Function<ProjectResidual> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& residual,
                              at::TensorList /*parameters*/, const Holder& holder) {
        ctx->save_for_backward({x});
        save(ctx, holder);
        return project(holder->value, x, residual);
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const at::Tensor x = ctx->get_saved_variables()[0];
        const Projections& projections = saved_projections(ctx);
        at::Tensor dx;
        if (ctx->needs_input_grad(0)) dx = project_backward(projections, grads[0]);
        return gradients({dx, grads[0]}, parameter_gradients(projections, x, grads[0]), 1);
    }
};

struct SwigluProjectResidual : Function<SwigluProjectResidual> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up, const at::Tensor& residual,
                              at::TensorList /*parameters*/, const Holder& holder) {
        ctx->save_for_backward({gate_up});
        save(ctx, holder);
        return project(holder->value, swiglu(gate_up), residual);
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const at::Tensor gate_up = ctx->get_saved_variables()[0];
        const Projections& projections = saved_projections(ctx);
        if (!ctx->needs_input_grad(0)) {
            return gradients({at::Tensor(), grads[0]},
                             parameter_gradients(projections, swiglu(gate_up), grads[0]), 1);
        }
        const SwigluGradient inner = swiglu_backward(project_backward(projections, grads[0]), gate_up);
        return gradients({inner.gate_up, grads[0]}, parameter_gradients(projections, inner.y, grads[0]), 1);
    }
};

}  // namespace

NormedProjection norm_project(const at::Tensor& hidden, const at::Tensor& norm_weight, double eps,
                              Projections projections) {
    const std::vector<at::Tensor> parameters = projections.parameters();
    const variable_list out = NormProject::apply(hidden, norm_weight, at::TensorList(parameters), eps,
                                                 hold(std::move(projections)));
    return {.y = out[0], .residual = out[1]};
}

at::Tensor project_residual(const at::Tensor& x, const at::Tensor& residual, Projections projections) {
    const std::vector<at::Tensor> parameters = projections.parameters();
    return ProjectResidual::apply(x, residual, at::TensorList(parameters), hold(std::move(projections)));
}

at::Tensor swiglu_project_residual(const at::Tensor& gate_up, const at::Tensor& residual,
                                   Projections projections) {
    const std::vector<at::Tensor> parameters = projections.parameters();
    return SwigluProjectResidual::apply(gate_up, residual, at::TensorList(parameters),
                                        hold(std::move(projections)));
}

}  // namespace qlora::ops
