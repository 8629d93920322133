#include "qlora/ops/routing.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

namespace qlora::ops {

Routing route(const at::Tensor& logits, const RoutingRule& rule) {
    const at::Tensor probabilities = at::softmax(logits, -1, at::kFloat);
    auto [weights, experts] = at::topk(probabilities, rule.chosen, -1);
    if (rule.renormalises) weights = weights / weights.sum(-1, true);
    if (rule.rounds) weights = weights.to(logits.scalar_type());
    return {.probabilities = probabilities, .experts = experts, .weights = weights};
}

at::Tensor route_backward(const at::Tensor& of_weights, const Routing& routing, const RoutingRule& rule,
                          const at::Tensor& of_probabilities) {
    at::Tensor of_chosen = of_weights.to(at::kFloat);
    if (rule.renormalises) {
        // w = v / s: dv = (dw - sum(dw w)) / s
        const at::Tensor chosen = routing.probabilities.gather(1, routing.experts);
        const at::Tensor sum = chosen.sum(-1, true);
        of_chosen = (of_chosen - (of_chosen * (chosen / sum)).sum(-1, true)) / sum;
    }
    at::Tensor gradient = at::zeros_like(routing.probabilities).scatter_(1, routing.experts, of_chosen);
    if (of_probabilities.defined()) gradient.add_(of_probabilities);
    const at::Tensor inner = (gradient * routing.probabilities).sum(-1, true);
    return gradient.sub_(inner).mul_(routing.probabilities);
}

ExpertRows rows_by_expert(const at::Tensor& experts, std::int64_t count) {
    const at::Tensor flat = experts.reshape({-1});
    ExpertRows out;
    out.choices = std::get<1>(at::sort(flat, std::optional<bool>(true), 0, /*descending=*/false));
    out.tokens = out.choices.div(experts.size(1), "floor");
    at::Tensor places = at::empty_like(out.choices);
    places.index_copy_(0, out.choices, at::arange(flat.size(0), out.choices.options()));
    out.places = places.view(experts.sizes());
    const at::Tensor rows = at::bincount(flat, {}, count).cpu();
    const auto* counted = rows.const_data_ptr<std::int64_t>();
    out.begin.assign(1, 0);
    for (std::int64_t expert = 0; expert < count; ++expert)
        out.begin.push_back(out.begin.back() + counted[expert]);
    return out;
}

at::Tensor sum_of_choices(const at::Tensor& rows, const ExpertRows& by_expert, const at::Tensor& weights) {
    const at::Tensor& places = by_expert.places;
    at::Tensor sum = at::zeros({places.size(0), rows.size(1)}, rows.options().dtype(at::kFloat));
    for (std::int64_t choice = 0; choice < places.size(1); ++choice) {
        const at::Tensor chosen = rows.index_select(0, places.select(1, choice));
        sum.add_(weights.defined() ? chosen * weights.narrow(1, choice, 1) : chosen);
    }
    return sum.to(rows.scalar_type());
}

void RouterBalance::add(const Routing& routing) {
    const at::AutoGradMode no_gradients(false);
    const std::int64_t count = routing.probabilities.size(1);
    if (!choices_.defined()) {
        choices_ = at::zeros({count}, routing.probabilities.options());
        probabilities_ = at::zeros_like(choices_);
    }
    choices_.add_(at::bincount(routing.experts.reshape({-1}), {}, count));
    probabilities_.add_(routing.probabilities.sum(0));
    rows_ += routing.probabilities.size(0);
}

at::Tensor RouterBalance::loss() const {
    if (rows_ == 0) return {};
    const auto rows = static_cast<double>(rows_);
    return ((choices_ / rows) * (probabilities_ / rows)).sum() * static_cast<double>(choices_.size(0));
}

void RouterBalance::set_scale(double scale) {
    if (rows_ == 0) return;
    const auto rows = static_cast<double>(rows_), count = static_cast<double>(choices_.size(0));
    probability_gradient_ = choices_ * (scale * count / (rows * rows));
}

}  // namespace qlora::ops
