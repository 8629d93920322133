#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <optional>
#include <utility>

#include "block.h"
#include "qlora/ops/experts_node.h"

namespace qlora::models {
namespace {

/// A linear that runs alone.
class SingleLinear {
  public:
    explicit SingleLinear(const spec::Linear& linear)
        : linear_(linear.path, linear.in, linear.out, linear.bias), group_({&linear_}) {}

    nn::Linear* linear() { return &linear_; }
    nn::LinearGroup* group() { return &group_; }
    ops::Projections projections(const LayerPass& pass) const { return group_.projections(pass.context); }

  private:
    nn::Linear linear_;
    nn::LinearGroup group_;  ///< it points to the linear
};

struct SharedLinears {
    SharedLinears(const spec::Mlp& shared, const spec::Linear& shared_gate)
        : mlp(shared.entry, shared.output), gate(shared_gate) {}

    BlockLinears mlp;
    SingleLinear gate;
};

/// The adapters of one product of all experts: each expert's linear has a part of the same two tensors.
ops::ExpertAdapters adapters_of(const nn::Linear& linear) {
    if (linear.adapter() == nullptr) return {};
    const auto parameters = linear.adapter()->parameters();
    return {.a = parameters.at(0).second, .b = parameters.at(1).second};
}

/// Experts behind a norm, added to its input; always one node.
class ExpertsBlock final : public Block {
  public:
    explicit ExpertsBlock(const spec::Experts& experts)
        : path_(experts.path),
          router_(experts.router),
          routing_{.chosen = experts.chosen,
                   .renormalises = experts.renormalises,
                   .rounds = experts.rounds_weights},
          activation_{.kind = experts.experts.front().activation} {
        for (const spec::Mlp& expert : experts.experts)
            experts_.push_back(std::make_unique<BlockLinears>(expert.entry, expert.output));
        if (experts.shared) shared_ = std::make_unique<SharedLinears>(*experts.shared, experts.shared_gate);
    }

    bool runs_as_one(const LayerPass& /*pass*/) const override { return true; }
    at::Tensor as_one(const at::Tensor& hidden, const at::Tensor& residual, const nn::Norm* pre,
                      double multiplier, ops::NodeOutput output, const LayerPass& pass) const override {
        TORCH_CHECK(pre != nullptr && residual.is_same(hidden) && multiplier == 1.0, path_,
                    ": experts stand behind a norm and are added to its input");
        const bool keeps =
            pass.context.recomputation == nn::Recomputation::kNone && at::GradMode::is_enabled();
        return ops::experts_residual(hidden, pre->used(), in_pass(pass),
                                     keeps ? ops::ExpertsMemory::kInner : ops::ExpertsMemory::kInput, output);
    }

    std::vector<nn::Linear*> linears() override {
        std::vector<nn::Linear*> out = {router_.linear()};
        for (const auto& expert : experts_) append(out, expert->all());
        if (!shared_) return out;
        append(out, shared_->mlp.all());
        out.push_back(shared_->gate.linear());
        return out;
    }
    std::vector<nn::LinearGroup*> groups() override {
        std::vector<nn::LinearGroup*> out = {router_.group()};
        for (const auto& expert : experts_) append(out, expert->groups());
        if (!shared_) return out;
        append(out, shared_->mlp.groups());
        out.push_back(shared_->gate.group());
        return out;
    }

  private:
    template <class T>
    static void append(std::vector<T>& out, const std::vector<T>& more) {
        out.insert(out.end(), more.begin(), more.end());
    }

    ops::Experts in_pass(const LayerPass& pass) const {
        ops::Experts out{.count = static_cast<std::int64_t>(experts_.size()),
                         .router = router_.projections(pass),
                         .routing = routing_,
                         .activation = activation_};
        // The pass itself need not live until backward. A node runs with gradients off: what they are here
        // decides how a few rows are multiplied.
        out.expert = [this, context = pass.context,
                      gradients = at::GradMode::is_enabled()](std::int64_t expert) {
            const at::AutoGradMode mode(gradients);
            const BlockLinears& linears = *experts_[static_cast<std::size_t>(expert)];
            return ops::MlpProjections{.entry = linears.entry(context), .output = linears.output(context)};
        };
        const std::vector<nn::Linear*> first = experts_.front()->all();
        out.entry = adapters_of(*first.front());
        out.output = adapters_of(*first.back());
        if (shared_) {
            out.shared = ops::SharedExpert{.gate = shared_->gate.projections(pass),
                                           .mlp = {.entry = shared_->mlp.entry(pass.context),
                                                   .output = shared_->mlp.output(pass.context)}};
        }
        out.balance = pass.context.router_balance;
        return out;
    }

    std::string path_;
    SingleLinear router_;
    ops::RoutingRule routing_;
    ops::ActivationRule activation_;
    std::vector<std::unique_ptr<BlockLinears>> experts_;
    std::unique_ptr<SharedLinears> shared_;
};

}  // namespace

std::unique_ptr<Block> make_block(const spec::Experts& experts) {
    return std::make_unique<ExpertsBlock>(experts);
}

}  // namespace qlora::models
