#include <ATen/core/grad_mode.h>

#include <optional>

#include "block.h"
#include "qlora/ops/activation.h"
#include "qlora/ops/decoder_nodes.h"

namespace qlora::models {
namespace {

class MlpBlock final : public Block {
  public:
    explicit MlpBlock(const spec::Mlp& mlp)
        : linears_(mlp.entry, mlp.output), activation_{.kind = mlp.activation, .gated = mlp.gated} {}

    ops::Projections entry(const LayerPass& pass) const override { return linears_.entry(pass.context); }
    at::Tensor inner(const at::Tensor& entered, const LayerPass& /*pass*/) const override { return entered; }
    at::Tensor leave(const at::Tensor& inner, const at::Tensor& residual, double multiplier,
                     const LayerPass& pass) const override {
        return ops::activate_project_residual(inner, residual, linears_.output(pass.context), activation_,
                                              multiplier);
    }

    bool runs_as_one(const LayerPass& pass) const override {
        return pass.context.recomputation != nn::Recomputation::kNone && at::GradMode::is_enabled();
    }
    at::Tensor as_one(const at::Tensor& hidden, const at::Tensor& residual, const nn::Norm* pre,
                      double multiplier, ops::NodeOutput node_output, const LayerPass& pass) const override {
        std::optional<ops::Norm> norm;
        if (pre != nullptr) norm = pre->used();
        return ops::mlp_residual(hidden, residual, norm, entry(pass), linears_.output(pass.context),
                                 {.rule = activation_, .multiplier = multiplier, .output = node_output});
    }

    std::vector<nn::Linear*> linears() override { return linears_.all(); }
    std::vector<nn::LinearGroup*> groups() override { return linears_.groups(); }

  private:
    BlockLinears linears_;
    ops::ActivationRule activation_;
};

}  // namespace

std::unique_ptr<Block> make_block(const spec::Mlp& mlp) {
    return std::make_unique<MlpBlock>(mlp);
}

}  // namespace qlora::models
