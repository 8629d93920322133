#include <ATen/core/grad_mode.h>

#include "block.h"
#include "qlora/ops/decoder_nodes.h"
#include "qlora/ops/mlp_node.h"

namespace qlora::models {
namespace {

class MlpBlock final : public Block {
  public:
    MlpBlock(const spec::Norm& pre, const spec::Mlp& mlp, bool ends_layer)
        : pre_(make_norm(pre)),
          first_(make_linears(mlp.entry)),
          last_(make_linear(mlp.output)),
          ends_layer_(ends_layer),
          entry_(pointers_to(first_)),
          output_({&last_}) {}

    Stream forward(const Stream& stream, const LayerPass& pass) const override {
        const nn::Recomputation level = pass.context.recomputation;
        if (level != nn::Recomputation::kNone && at::GradMode::is_enabled()) {
            // With whole layers recomputed, gradients are on in backward alone, where nothing reads the
            // values that leave the layer.
            const bool is_read = level != nn::Recomputation::kLayers || !ends_layer_;
            return {
                .value = ops::mlp_residual(stream.settled(), pre_.used(), entry_.projections(pass.context),
                                           output_.projections(pass.context),
                                           is_read ? ops::NodeOutput::kUsed : ops::NodeOutput::kGraphOnly),
                .pending = {}};
        }
        const auto [gate_up, residual] =
            ops::norm_project(stream.value, pre_.used(), entry_.projections(pass.context), stream.pending);
        return {.value = ops::swiglu_project_residual(gate_up, residual, output_.projections(pass.context)),
                .pending = {}};
    }

    std::vector<nn::Linear*> linears() override {
        std::vector<nn::Linear*> out = pointers_to(first_);
        out.push_back(&last_);
        return out;
    }
    std::vector<nn::Norm*> norms() override { return {&pre_}; }
    std::vector<nn::LinearGroup*> groups() override { return {&entry_, &output_}; }

  private:
    nn::Norm pre_;
    std::vector<nn::Linear> first_;
    nn::Linear last_;
    bool ends_layer_;
    nn::LinearGroup entry_, output_;  ///< they point to the linears
};

}  // namespace

std::unique_ptr<Block> make_mlp_block(const spec::Norm& pre, const spec::Mlp& mlp, bool ends_layer) {
    return std::make_unique<MlpBlock>(pre, mlp, ends_layer);
}

}  // namespace qlora::models
