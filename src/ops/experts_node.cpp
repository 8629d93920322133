#include "qlora/ops/experts_node.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros_like.h>

#include "if_defined.h"
#include "norm_saved.h"
#include "projection_parts.h"
#include "projections_holder.h"
#include "saved_value.h"

namespace qlora::ops {

std::vector<at::Tensor> Experts::parameters() const {
    std::vector<at::Tensor> out = router.parameters();
    for (const ExpertAdapters& adapters : {entry, output}) {
        if (adapters.a.defined()) out.insert(out.end(), {adapters.a, adapters.b});
    }
    if (!shared) return out;
    for (const Projections* projections : {&shared->gate, &shared->mlp.entry, &shared->mlp.output}) {
        const std::vector<at::Tensor> more = projections->parameters();
        out.insert(out.end(), more.begin(), more.end());
    }
    return out;
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr const char* kExperts = "experts";

using ExpertsHolder = ValueHolder<Experts>;

/// What of a pass backward reads or makes again.
struct InnerValues {
    Routing routing;
    at::Tensor shared_entered, shared_gate;
    std::vector<at::Tensor> entered;  ///< of each expert's rows; undefined where it has none

    static constexpr std::size_t kOthers = 5;  ///< tensors before those of `entered`

    variable_list tensors() const {
        variable_list out = {routing.probabilities, routing.experts, routing.weights, shared_entered,
                             shared_gate};
        out.insert(out.end(), entered.begin(), entered.end());
        return out;
    }
    static InnerValues from(const variable_list& saved, std::size_t first, std::size_t experts) {
        const auto at = saved.begin() + static_cast<std::ptrdiff_t>(first);
        InnerValues out{.routing = {.probabilities = at[0], .experts = at[1], .weights = at[2]},
                        .shared_entered = at[3],
                        .shared_gate = at[4],
                        .entered = {}};
        const auto begin = at + static_cast<std::ptrdiff_t>(kOthers);
        out.entered.assign(begin, begin + static_cast<std::ptrdiff_t>(experts));
        return out;
    }
};

/// The rows of one expert.
struct Rows {
    Rows(const ExpertRows& all, std::int64_t expert)
        : first(all.begin[static_cast<std::size_t>(expert)]),
          count(all.begin[static_cast<std::size_t>(expert) + 1] - first),
          tokens(all.tokens.narrow(0, first, count)),
          choices(all.choices.narrow(0, first, count)) {}

    at::Tensor of(const at::Tensor& all) const { return all.narrow(0, first, count); }

    std::int64_t first, count;
    at::Tensor tokens, choices;
};

/// Calls f(expert, its rows) for each that has some.
template <class F>
void for_each_expert(const ExpertRows& by_expert, F&& f) {
    for (std::int64_t expert = 0; expert + 1 < std::ssize(by_expert.begin); ++expert) {
        if (const Rows rows(by_expert, expert); rows.count > 0) f(expert, rows);
    }
}

/// Sum over the columns of a * b, fp32 [rows].
at::Tensor row_products(const at::Tensor& a, const at::Tensor& b) {
    return (a.to(at::kFloat) * b.to(at::kFloat)).sum(1);
}

at::Tensor shared_result(const SharedExpert& shared, ActivationRule rule, InnerValues& inner,
                         const at::Tensor& x) {
    inner.shared_gate = project(shared.gate, x);
    inner.shared_entered = project(shared.mlp.entry, x);
    return at::sigmoid(inner.shared_gate) * project(shared.mlp.output, activate(inner.shared_entered, rule));
}

/// What the experts make of x [T, d]; `inner` gets what backward may keep.
at::Tensor experts_result(const Experts& experts, const at::Tensor& x, bool keeps_inner, InnerValues& inner) {
    inner.routing = route(project(experts.router, x), experts.routing);
    inner.entered.resize(static_cast<std::size_t>(experts.count));
    const ExpertRows by_expert = rows_by_expert(inner.routing.experts, experts.count);
    at::Tensor rows = at::empty({by_expert.tokens.size(0), x.size(1)}, x.options());
    for_each_expert(by_expert, [&](std::int64_t expert, const Rows& of_expert) {
        const MlpProjections mlp = experts.expert(expert);
        const at::Tensor entered = project(mlp.entry, x.index_select(0, of_expert.tokens));
        of_expert.of(rows).copy_(project(mlp.output, activate(entered, experts.activation)));
        if (keeps_inner) inner.entered[static_cast<std::size_t>(expert)] = entered;
    });
    at::Tensor out = sum_of_choices(rows, by_expert, inner.routing.weights);
    if (experts.shared) out.add_(shared_result(*experts.shared, experts.activation, inner, x));
    return out;
}

/// Collects the gradients of one product's adapters from those of single experts.
class AdapterGradients {
  public:
    AdapterGradients(const ExpertAdapters& adapters, std::int64_t experts) : experts_(experts) {
        if (!adapters.a.defined()) return;
        a_ = at::zeros_like(adapters.a.detach());
        b_ = at::zeros_like(adapters.b.detach());
    }

    bool wanted() const { return a_.defined(); }
    /// `of_parts`: for each part A's, which all share, then B's, whose rows are one under the other.
    void add(std::int64_t expert, const variable_list& of_parts) {
        const std::int64_t rank = a_.size(0) / experts_;
        const at::Tensor a = a_.narrow(0, expert * rank, rank);
        const at::Tensor b = b_.view({b_.size(0), rank, experts_}).select(2, expert);
        std::int64_t row = 0;
        for (std::size_t i = 0; i + 1 < of_parts.size(); i += 2) {
            a.add_(of_parts[i]);
            const std::int64_t rows = of_parts[i + 1].size(0);
            b.narrow(0, row, rows).copy_(of_parts[i + 1]);
            row += rows;
        }
    }
    void append_to(variable_list& out) const {
        if (wanted()) out.insert(out.end(), {a_, b_});
    }

  private:
    std::int64_t experts_;
    at::Tensor a_, b_;
};

void append(variable_list& out, variable_list more) {
    out.insert(out.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

/// Gradients behind the sum of the experts.
struct Backward {
    at::Tensor x;              ///< undefined unless wanted
    variable_list parameters;  ///< in the order of Experts::parameters
};

/// x is the input of the layer, g the gradient of the sum. `inner` is what was kept; without it, all is made
/// again.
class BackwardPass {
  public:
    BackwardPass(const Experts& experts, const at::Tensor& x, const at::Tensor& g, bool wants_x,
                 std::optional<InnerValues> inner)
        : experts_(experts),
          x_(x),
          g_(g),
          wants_x_(wants_x),
          inner_(std::move(inner)),
          routing_(inner_ ? inner_->routing : route(project(experts.router, x), experts.routing)),
          by_expert_(rows_by_expert(routing_.experts, experts.count)) {}

    Backward run() {
        Backward out;
        run_experts(out);
        if (experts_.shared) run_shared(*experts_.shared, out);
        return out;
    }

  private:
    /// The entry's product: as it was kept, or made again by the weights that its gradient needs too.
    at::Tensor entered(const at::Tensor& kept, Projections& entry, const at::Tensor& x) const {
        if (inner_) return kept;
        entry = with_weights_made(entry);
        return project(entry, x);
    }

    void run_experts(Backward& out) {
        AdapterGradients of_entry(experts_.entry, experts_.count), of_output(experts_.output, experts_.count);
        const at::Tensor weights = routing_.weights.reshape({-1});
        at::Tensor d_weights = at::empty({weights.size(0)}, weights.options().dtype(at::kFloat));
        at::Tensor dx;
        if (wants_x_) dx = at::empty({weights.size(0), x_.size(1)}, x_.options());
        for_each_expert(by_expert_, [&](std::int64_t expert, const Rows& rows) {
            MlpProjections mlp = experts_.expert(expert);
            const at::Tensor g = g_.index_select(0, rows.tokens), x = x_.index_select(0, rows.tokens);
            const at::Tensor weight = weights.index_select(0, rows.choices);
            // The gradient of a weight is <g, output(y)> = <output^T(g), y>: the product itself is not
            // needed.
            ProjectionGradients of_g(mlp.output, g);
            const at::Tensor unweighted = of_g.of_input();
            const std::size_t place = static_cast<std::size_t>(expert);
            const at::Tensor inner = entered(inner_ ? inner_->entered[place] : at::Tensor(), mlp.entry, x);
            const ActivationGradient made =
                activate_backward(weighted_rows(unweighted, weight), inner, experts_.activation);
            d_weights.index_copy_(0, rows.choices, row_products(unweighted, made.y));
            if (of_output.wanted()) of_output.add(expert, of_g.weighted(weight).of_parameters(made.y));
            ProjectionGradients of_entered(mlp.entry, made.entered);
            if (wants_x_) rows.of(dx).copy_(of_entered.of_input());
            if (of_entry.wanted()) of_entry.add(expert, of_entered.of_parameters(x));
        });
        if (wants_x_) out.x = sum_of_choices(dx, by_expert_);
        run_router(d_weights.view(routing_.weights.sizes()), out);
        of_entry.append_to(out.parameters);
        of_output.append_to(out.parameters);
    }

    void run_router(const at::Tensor& d_weights, Backward& out) const {
        const Projections& router = experts_.router;
        const at::Tensor balance = experts_.balance ? experts_.balance->probability_gradient() : at::Tensor();
        const at::Tensor d_logits =
            route_backward(d_weights, routing_, experts_.routing, balance).to(x_.scalar_type());
        ProjectionGradients made(router, d_logits);
        if (wants_x_) out.x.add_(made.of_input());
        append(out.parameters, made.of_parameters(x_));
    }

    /// What output scales multiplied in forward, made again; undefined where none trains.
    static at::Tensor product_again(const Projections& projections, const at::Tensor& x) {
        at::Tensor product;
        if (projections.keeps_product()) project(projections, x, {}, 1.0, &product);
        return product;
    }

    void run_shared(const SharedExpert& shared, Backward& out) const {
        const at::Tensor gate =
            at::sigmoid(inner_ ? inner_->shared_gate : project(shared.gate, x_)).squeeze(1);
        ProjectionGradients of_g(shared.mlp.output, g_);
        const at::Tensor unweighted = of_g.of_input();
        Projections entry = shared.mlp.entry;
        const at::Tensor inner = entered(inner_ ? inner_->shared_entered : at::Tensor(), entry, x_);
        const ActivationGradient made =
            activate_backward(weighted_rows(unweighted, gate), inner, experts_.activation);
        const at::Tensor wide = gate.to(at::kFloat);
        at::Tensor along = row_products(unweighted, made.y);
        if (const at::Tensor constant = constant_of(shared.mlp.output); constant.defined())
            along.add_(row_products(g_, constant));
        const at::Tensor d_gate = (along * wide * (1 - wide)).unsqueeze(1).to(x_.scalar_type());
        variable_list output =
            of_g.weighted(gate, product_again(shared.mlp.output, made.y)).of_parameters(made.y);
        ProjectionGradients of_entry(entry, made.entered, product_again(entry, x_)),
            of_gate(shared.gate, d_gate, product_again(shared.gate, x_));
        if (wants_x_) {
            out.x.add_(of_entry.of_input());
            out.x.add_(of_gate.of_input());
        }
        append(out.parameters, of_gate.of_parameters(x_));
        append(out.parameters, of_entry.of_parameters(x_));
        append(out.parameters, std::move(output));
    }

    const Experts& experts_;
    const at::Tensor &x_, &g_;
    bool wants_x_;
    std::optional<InnerValues> inner_;
    Routing routing_;
    ExpertRows by_expert_;
};

struct ExpertsResidual : Function<ExpertsResidual> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight,
                              const std::optional<at::Tensor>& bias, at::TensorList /*parameters*/,
                              const NormForm& form, const c10::intrusive_ptr<ExpertsHolder>& holder,
                              ExpertsMemory memory, NodeOutput output) {
        const Norm norm = form.with(weight, bias);
        const Experts& experts = holder->value;
        ctx->saved_data[kExperts] = c10::IValue::make_capsule(holder);
        if (output == NodeOutput::kGraphOnly) {
            save_with_norm(ctx, {hidden}, {norm, {}});
            return at::empty_strided(hidden.sizes(), {0, 0}, hidden.options());
        }
        const NormResult normed = norm_forward(hidden, norm);
        const bool keeps_inner = memory == ExpertsMemory::kInner;
        InnerValues inner;
        const at::Tensor sum = experts_result(experts, normed.y, keeps_inner, inner);
        if (experts.balance) experts.balance->add(inner.routing);
        variable_list kept = {hidden};
        if (keeps_inner) append(kept, inner.tensors());
        save_with_norm(ctx, std::move(kept), {norm, keeps_inner ? normed.statistics : NormStatistics{}});
        return hidden + sum;
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor &hidden = saved[0], &g = grads[0];
        auto [norm, statistics] = saved_norm(ctx, saved);
        const Experts& experts = saved_value<Experts>(ctx, kExperts);
        const bool wants_hidden = ctx->needs_input_grad(0), wants_weight = ctx->needs_input_grad(1);
        const bool wants_bias = norm.bias.defined() && ctx->needs_input_grad(2);
        const auto count = static_cast<std::size_t>(experts.count);
        std::optional<InnerValues> inner;
        at::Tensor x;
        if (statistics.inverse.defined()) {
            inner = InnerValues::from(saved, 1, count);
            x = norm_recompute(hidden, norm, statistics);
        } else {
            NormResult normed = norm_forward(hidden, norm);
            x = std::move(normed.y);
            statistics = std::move(normed.statistics);
        }
        Backward made =
            BackwardPass(experts, x, g, wants_hidden || wants_weight || wants_bias, std::move(inner)).run();
        at::Tensor d_hidden, d_weight, d_bias;
        if (wants_hidden) d_hidden = norm_backward(made.x, hidden, norm, statistics, g);
        if (wants_weight) d_weight = norm_weight_gradient(made.x, hidden, norm, statistics);
        if (wants_bias) d_bias = norm_bias_gradient(made.x);
        return gradients({d_hidden, d_weight, d_bias}, std::move(made.parameters), kTrailing);
    }

    /// Arguments after the parameters.
    static constexpr std::size_t kTrailing = 4;
};

}  // namespace

at::Tensor experts_residual(const at::Tensor& hidden, const Norm& norm, Experts experts, ExpertsMemory memory,
                            NodeOutput output) {
    const std::vector<at::Tensor> parameters = experts.parameters();
    return ExpertsResidual::apply(hidden, norm.weight, if_defined(norm.bias), at::TensorList(parameters),
                                  NormForm(norm), c10::make_intrusive<ExpertsHolder>(std::move(experts)),
                                  memory, output);
}

}  // namespace qlora::ops
