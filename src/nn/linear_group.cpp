#include "qlora/nn/linear_group.h"

#include <algorithm>

namespace qlora::nn {

LinearGroup::LinearGroup(std::vector<const Linear*> linears) : linears_(std::move(linears)) {}

bool LinearGroup::trains_a_weight() const {
    return std::any_of(linears_.begin(), linears_.end(),
                       [](const Linear* linear) { return linear->trains_whole_module(); });
}

bool LinearGroup::folds() const {
    return std::all_of(linears_.begin(), linears_.end(), [](const Linear* linear) {
        return linear->weight().compute_dtype() == at::kFloat &&
               (linear->adapter() == nullptr || linear->adapter()->folds());
    });
}

void LinearGroup::keep_dense(bool keep) {
    keeps_ = keep;
    kept_ = at::Tensor();
}

ops::Projections LinearGroup::projections(const ForwardContext& context) const {
    ops::Projections out;
    for (const Linear* linear : linears_) {
        ops::Projection part{
            .weight = &linear->weight(), .trained_weight = linear->trained_weight(), .bias = linear->bias()};
        if (linear->adapter() != nullptr && !linear->trains_whole_module()) {
            part.adapter = linear->adapter()->low_rank(context);
        }
        out.parts.push_back(std::move(part));
    }
    // Recomputation repeats a pass under another grad mode, and must take the same way.
    out.from_storage =
        !context.training && context.recomputation == Recomputation::kNone && !at::GradMode::is_enabled();
    if (trains_a_weight()) return out;
    out.stacked = [this] { return stacked(); };
    out.folded = folds();
    return out;
}

std::vector<std::int64_t> LinearGroup::versions() const {
    std::vector<std::int64_t> out;
    for (const Linear* linear : linears_) {
        if (linear->adapter() == nullptr) continue;
        for (const auto& [name, tensor] : linear->adapter()->parameters()) out.push_back(tensor._version());
    }
    return out;
}

at::Tensor LinearGroup::stacked() const {
    if (!keeps_) return make_stacked();
    std::vector<std::int64_t> now = versions();
    if (!kept_.defined() || now != kept_versions_) {
        kept_ = at::Tensor();  // its memory serves the new one
        kept_ = make_stacked();
        kept_versions_ = std::move(now);
    }
    return kept_;
}

at::Tensor LinearGroup::make_stacked() const {
    const at::AutoGradMode no_gradients(false);
    const bool adds = folds();
    std::int64_t rows = 0;
    for (const Linear* linear : linears_) rows += linear->out_features();
    at::Tensor out = at::empty({rows, linears_.front()->in_features()}, at::kFloat);
    std::int64_t first = 0;
    for (const Linear* linear : linears_) {
        at::Tensor part = out.narrow(0, first, linear->out_features());
        first += linear->out_features();
        linear->weight().dense_into(part);
        if (adds && linear->adapter() != nullptr) linear->adapter()->add_delta(part);
    }
    return out;
}

}  // namespace qlora::nn
