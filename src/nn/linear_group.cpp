#include "qlora/nn/linear_group.h"

#include <ATen/core/grad_mode.h>

#include "grouped_linears.h"
#include "qlora/core/error.h"
#include "qlora/ops/device.h"

namespace qlora::nn {

LinearGroup::LinearGroup(std::vector<Linear*> linears)
    : linears_(std::move(linears)), stacked_(linears_), extended_(linears_) {}

bool LinearGroup::runs_on_device() const {
    const Weight& weight = linears_.front()->weight();
    return weight.defined() && ops::device_kernels(weight.device()) != nullptr;
}

void LinearGroup::keep_dense(bool keep) {
    stacked_.keep(keep);
    extended_.keep(keep);
}

bool LinearGroup::move_weights_together() {
    return runs_on_device() && extended_.move_together();
}

ops::Projections LinearGroup::projections(const ForwardContext& context) const {
    ops::Projections out;
    for (const Linear* linear : linears_) {
        ops::Projection part{
            .weight = &linear->weight(), .trained_weight = linear->trained_weight(), .bias = linear->bias()};
        if (linear->used_adapter() != nullptr) part.update = linear->used_adapter()->update(context);
        if (part.update.input_scale.defined() && linears_.size() > 1) {
            throw ConfigError(linear->path() +
                              ": a factor on its input (feedforward_modules of IA3) would scale that of " +
                              linears_[linears_.front() == linear ? 1 : 0]->path() + " too");
        }
        out.parts.push_back(std::move(part));
    }
    // Never with recomputation: its second pass has gradients on and must give the bits of the first.
    out.from_storage =
        !context.training && context.recomputation == Recomputation::kNone && !at::GradMode::is_enabled();
    if (runs_on_device()) {
        out.weights = ops::Extended{.operands = [this] { return extended_.operands(); },
                                    .a = [this] { return extended_.a(); }};
    } else if (!trains_a_weight(linears_)) {
        out.weights =
            ops::Stacked{.matrix = [this] { return stacked_.matrix(); }, .folded = stacked_.folds()};
    }
    return out;
}

}  // namespace qlora::nn
