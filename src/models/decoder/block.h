#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "qlora/models/decoder_spec.h"
#include "qlora/models/kv_cache.h"
#include "qlora/nn/forward_context.h"
#include "qlora/nn/linear_group.h"
#include "qlora/nn/norm.h"
#include "qlora/ops/attention.h"
#include "qlora/ops/mlp_node.h"
#include "qlora/ops/rope.h"

namespace qlora::models {

/// What a pass gives to the blocks of a layer. It owns what it holds, because a layer may run again in
/// backward.
struct LayerPass {
    nn::ForwardContext context;
    std::vector<ops::RopeTable> ropes;  ///< one for each of DecoderSpec::ropes; empty where no layer reads it
    ops::SequenceOffsets offsets;
    std::int64_t layer = 0;
    at::Tensor rows;  ///< [R] int64: the tokens that go on where none needs its neighbours; undefined: all
    std::span<KvCache* const> caches;  ///< one a sequence, or none
    ops::AttentionPrefix prefix = {};  ///< of this layer; with caches they hold it
};

/// What stands between two norms: linears that read the stream, what becomes of their product, and a linear
/// that leads back to it. A block that is not made so always runs as one node, and says so in `runs_as_one`;
/// what a block never runs it need not override.
class Block {
  public:
    Block() = default;
    virtual ~Block() = default;
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    /// Whether tokens look at each other; only then `inner` narrows them to LayerPass::rows.
    virtual bool attends() const { return false; }
    virtual ops::Projections entry(const LayerPass& pass) const;
    /// What becomes of the entry's product [T, sum of out] before the last linear reads it.
    virtual at::Tensor inner(const at::Tensor& entered, const LayerPass& pass) const;
    /// residual + multiplier * output(inner), the sum's start left out where `residual` is undefined.
    virtual at::Tensor leave(const at::Tensor& inner, const at::Tensor& residual, double multiplier,
                             const LayerPass& pass) const;

    /// Whether this pass runs the block as one node.
    virtual bool runs_as_one(const LayerPass& /*pass*/) const { return false; }
    /// The whole block so: residual + multiplier * block(pre(hidden)), without `pre` where it is null;
    /// `residual` is `hidden` itself, another tensor, or undefined.
    virtual at::Tensor as_one(const at::Tensor& hidden, const at::Tensor& residual, const nn::Norm* pre,
                              double multiplier, ops::NodeOutput output, const LayerPass& pass) const;

    virtual std::vector<nn::Linear*> linears() = 0;  ///< in the order of the checkpoint
    virtual std::vector<nn::Norm*> norms() { return {}; }
    /// The linears as they run.
    virtual std::vector<nn::LinearGroup*> groups() = 0;
};

/// The linears of most blocks: those of the entry run as one product, then the output.
class BlockLinears {
  public:
    BlockLinears(const std::vector<spec::Linear>& entry, const spec::Linear& output);

    ops::Projections entry(const nn::ForwardContext& context) const { return entry_.projections(context); }
    ops::Projections output(const nn::ForwardContext& context) const { return output_.projections(context); }
    std::vector<nn::Linear*> all();
    std::vector<nn::LinearGroup*> groups() { return {&entry_, &output_}; }

  private:
    std::vector<nn::Linear> first_;
    nn::Linear last_;
    nn::LinearGroup entry_, output_;  ///< they point to the linears
};

std::unique_ptr<Block> make_block(const spec::Attention& attention);
std::unique_ptr<Block> make_block(const spec::Mlp& mlp);
std::unique_ptr<Block> make_block(const spec::Experts& experts);

nn::Norm make_norm(const spec::Norm& norm);

}  // namespace qlora::models
