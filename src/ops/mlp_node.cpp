#include "qlora/ops/mlp_node.h"

#include <ATen/ops/empty_strided.h>

#include "if_defined.h"
#include "norm_saved.h"
#include "projection_parts.h"
#include "projections_holder.h"
#include "qlora/ops/activation.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr const char* kGateUp = "gate_up";
constexpr const char* kDown = "down";

/// The output of gate_up [T, 2 * intermediate]; the normed rows are gone when it returns.
at::Tensor inner_values(const Projections& gate_up, const at::Tensor& hidden, const Norm& norm) {
    const RoomyRows into = projection_input(gate_up, hidden, hidden.size(1));
    const NormResult normed = norm_forward(hidden, norm, into.rows());
    return project(gate_up, into.holding(normed.y));
}

at::Tensor activated(const Projections& gate_up, const at::Tensor& hidden, const Norm& norm) {
    return activate(inner_values(gate_up, hidden, norm), {});
}

struct MlpResidual : Function<MlpResidual> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight,
                              const std::optional<at::Tensor>& bias, at::TensorList /*parameters*/,
                              const NormForm& form, const Holder& gate_up, const Holder& down,
                              NodeOutput output) {
        const Norm norm = form.with(weight, bias);
        save_with_norm(ctx, {hidden}, {norm, {}});
        save(ctx, gate_up, kGateUp);
        save(ctx, down, kDown);
        if (output == NodeOutput::kGraphOnly) {
            return at::empty_strided(hidden.sizes(), {0, 0}, hidden.options());
        }
        return project(down->value, activated(gate_up->value, hidden, norm), hidden);
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor &hidden = saved[0], &g = grads[0];
        const Norm norm = saved_norm(ctx, saved).norm;
        const Projections& down = saved_projections(ctx, kDown);
        const bool wants_hidden = ctx->needs_input_grad(0), wants_weight = ctx->needs_input_grad(1);
        const bool wants_bias = norm.bias.defined() && ctx->needs_input_grad(2);
        const bool passes_norm = wants_hidden || wants_weight || wants_bias;
        if (!passes_norm && saved_projections(ctx, kGateUp).parameters().empty()) {
            const at::Tensor y = activated(saved_projections(ctx, kGateUp), hidden, norm);
            return gradients({at::Tensor(), at::Tensor(), at::Tensor()}, parameter_gradients(down, y, g),
                             kTrailing);
        }
        // The dense weights of `down` are released before those of gate and up are made: one set at a time.
        at::Tensor low_rank_down, low_rank_gate_up;
        at::Tensor d_inner = project_backward(down, g, &low_rank_down);
        const Projections gate_up = with_weights_made(saved_projections(ctx, kGateUp));
        const RoomyRows into = projection_input(gate_up, hidden, hidden.size(1));
        const NormResult normed = norm_forward(hidden, norm, into.rows());
        at::Tensor inner = project(gate_up, into.holding(normed.y));
        ActivationGradient made = activate_backward(d_inner, inner, {});
        d_inner.reset();
        inner.reset();
        const variable_list of_down = parameter_gradients(down, made.y, g, low_rank_down);
        made.y.reset();
        at::Tensor dx, d_hidden, d_weight, d_bias;
        if (passes_norm) dx = project_backward(gate_up, made.entered, &low_rank_gate_up);
        variable_list parameters = parameter_gradients(gate_up, normed.y, made.entered, low_rank_gate_up);
        parameters.insert(parameters.end(), of_down.begin(), of_down.end());
        if (wants_hidden) d_hidden = norm_backward(dx, hidden, norm, normed.statistics, g);
        if (wants_weight) d_weight = norm_weight_gradient(dx, hidden, norm, normed.statistics);
        if (wants_bias) d_bias = norm_bias_gradient(dx);
        return gradients({d_hidden, d_weight, d_bias}, std::move(parameters), kTrailing);
    }

    /// Arguments after the parameters.
    static constexpr std::size_t kTrailing = 4;
};

}  // namespace

at::Tensor mlp_residual(const at::Tensor& hidden, const Norm& norm, Projections gate_up, Projections down,
                        NodeOutput output) {
    std::vector<at::Tensor> parameters = gate_up.parameters();
    const std::vector<at::Tensor> of_down = down.parameters();
    parameters.insert(parameters.end(), of_down.begin(), of_down.end());
    return MlpResidual::apply(hidden, norm.weight, if_defined(norm.bias), at::TensorList(parameters),
                              NormForm(norm), hold(std::move(gate_up)), hold(std::move(down)), output);
}

}  // namespace qlora::ops
