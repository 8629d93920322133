#include "qlora/ops/mlp_node.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_strided.h>

#include "if_defined.h"
#include "norm_saved.h"
#include "projection_parts.h"
#include "projections_holder.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr const char* kNode = "node";
constexpr const char* kEntry = "entry";
constexpr const char* kOutput = "output";
constexpr const char* kSeparate = "residual";

/// What of the node is no tensor.
struct MlpNode {
    MlpForm form;
    std::optional<NormForm> norm;
    bool adds_hidden = false;
};

/// What the entry reads, and the product that follows.
struct Entered {
    at::Tensor x;               ///< [T, d]
    NormStatistics statistics;  ///< of the norm, if there is one
    at::Tensor values;          ///< [T, 2 * intermediate], or [T, intermediate]
    at::Tensor product;         ///< what output scales multiplied, if any trains
};

Entered enter(const Projections& entry, const at::Tensor& hidden, const std::optional<Norm>& norm) {
    Entered out{.x = hidden, .statistics = {}, .values = {}, .product = {}};
    if (!norm) {
        out.values = project(entry, hidden, {}, 1.0, &out.product);
        return out;
    }
    const RoomyRows into = projection_input(entry, hidden, hidden.size(1));
    const NormResult normed = norm_forward(hidden, *norm, into.rows());
    out.x = normed.y;
    out.statistics = normed.statistics;
    out.values = project(entry, into.holding(normed.y), {}, 1.0, &out.product);
    return out;
}

/// The output of `entry` is gone when it returns.
at::Tensor activated(const Projections& entry, const at::Tensor& hidden, const std::optional<Norm>& norm,
                     ActivationRule rule) {
    return activate(enter(entry, hidden, norm).values, rule);
}

struct MlpResidual : Function<MlpResidual> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden,
                              const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
                              const std::optional<at::Tensor>& residual, at::TensorList /*parameters*/,
                              const MlpNode& node, const Holder& entry, const Holder& output) {
        std::optional<Norm> norm;
        if (node.norm) norm = node.norm->with(*weight, bias);
        ctx->saved_data[kSeparate] = residual.has_value();
        save_value(ctx, kNode, node);
        save(ctx, entry, kEntry);
        save(ctx, output, kOutput);
        const bool is_read = node.form.output == NodeOutput::kUsed;
        at::Tensor y, product;
        if (is_read || output->value.keeps_product()) {
            y = project(output->value, activated(entry->value, hidden, norm, node.form.rule),
                        node.adds_hidden ? hidden : residual.value_or(at::Tensor()), node.form.multiplier,
                        &product);
        }
        ctx->save_for_backward({hidden, weight.value_or(at::Tensor()), bias.value_or(at::Tensor()), product});
        return is_read ? y : at::empty_strided(hidden.sizes(), {0, 0}, hidden.options());
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor& hidden = saved[0];
        const MlpNode& node = saved_value<MlpNode>(ctx, kNode);
        const MlpForm& form = node.form;
        std::optional<Norm> norm;
        if (node.norm) norm = node.norm->with(saved[1], saved[2]);
        ProjectionGradients of_output(saved_projections(ctx, kOutput), scaled(grads[0], form.multiplier),
                                      saved[3]);
        // Arguments that are absent have no number.
        const bool wants_hidden = ctx->needs_input_grad(0), wants_weight = norm && ctx->needs_input_grad(1);
        const bool wants_bias = norm && norm->bias.defined() && ctx->needs_input_grad(2);
        const bool passes_entry = wants_hidden || wants_weight || wants_bias;
        const at::Tensor d_residual = ctx->saved_data[kSeparate].toBool() ? grads[0] : at::Tensor();
        if (!passes_entry && saved_projections(ctx, kEntry).parameters().empty()) {
            const at::Tensor y = activated(saved_projections(ctx, kEntry), hidden, norm, form.rule);
            return gradients({at::Tensor(), at::Tensor(), at::Tensor(), d_residual},
                             of_output.of_parameters(y), kTrailing);
        }
        // The dense weights of `output` are released before those of the entry are made: one set at a time.
        at::Tensor d_inner = of_output.of_input();
        const Projections entry = with_weights_made(saved_projections(ctx, kEntry));
        Entered entered = enter(entry, hidden, norm);
        ActivationGradient made = activate_backward(d_inner, entered.values, form.rule);
        d_inner.reset();
        entered.values.reset();
        const variable_list output_parameters = of_output.of_parameters(made.y);
        made.y.reset();
        ProjectionGradients of_entry(entry, made.entered, entered.product);
        at::Tensor dx, d_hidden, d_weight, d_bias;
        if (passes_entry) dx = of_entry.of_input();
        variable_list parameters = of_entry.of_parameters(entered.x);
        parameters.insert(parameters.end(), output_parameters.begin(), output_parameters.end());
        const at::Tensor direct = node.adds_hidden ? grads[0] : at::Tensor();
        if (wants_hidden) d_hidden = gradient_of_hidden(dx, hidden, norm, entered.statistics, direct);
        if (wants_weight) d_weight = norm_weight_gradient(dx, hidden, *norm, entered.statistics);
        if (wants_bias) d_bias = norm_bias_gradient(dx);
        return gradients({d_hidden, d_weight, d_bias, d_residual}, std::move(parameters), kTrailing);
    }

    /// `direct`: what reached it as the residual.
    static at::Tensor gradient_of_hidden(const at::Tensor& dx, const at::Tensor& hidden,
                                         const std::optional<Norm>& norm, const NormStatistics& statistics,
                                         const at::Tensor& direct) {
        if (norm) return norm_backward(dx, hidden, *norm, statistics, direct);
        return direct.defined() ? direct + dx : dx;
    }

    /// Arguments after the parameters.
    static constexpr std::size_t kTrailing = 3;
};

}  // namespace

at::Tensor mlp_residual(const at::Tensor& hidden, const at::Tensor& residual, const std::optional<Norm>& norm,
                        Projections entry, Projections output, const MlpForm& form) {
    std::vector<at::Tensor> parameters = entry.parameters();
    const std::vector<at::Tensor> of_output = output.parameters();
    parameters.insert(parameters.end(), of_output.begin(), of_output.end());
    MlpNode node{.form = form, .norm = std::nullopt, .adds_hidden = residual.is_same(hidden)};
    if (norm) node.norm = NormForm(*norm);
    return MlpResidual::apply(
        hidden, norm ? if_defined(norm->weight) : std::nullopt, norm ? if_defined(norm->bias) : std::nullopt,
        node.adds_hidden ? std::nullopt : if_defined(residual), at::TensorList(parameters), node,
        hold(std::move(entry)), hold(std::move(output)));
}

}  // namespace qlora::ops
