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
#include "qlora/ops/rope.h"

namespace qlora::models {

/// The residual stream [T, hidden] between two blocks. On a device a block may leave what it adds in
/// `pending`: the kernel of the next norm adds it on its way.
struct Stream {
    at::Tensor value;
    at::Tensor pending;

    at::Tensor settled() const;
};

/// What a pass gives to the blocks of a layer. It owns what it holds, because a layer may run again in
/// backward.
struct LayerPass {
    nn::ForwardContext context;
    std::vector<ops::RopeTable> ropes;  ///< one for each of DecoderSpec::ropes; empty where no layer reads it
    ops::SequenceOffsets offsets;
    std::int64_t layer = 0;
    at::Tensor rows;  ///< [R] int64: the tokens that go on where none needs its neighbours; undefined: all
    std::span<KvCache* const> caches;  ///< one a sequence, or none
};

/// One branch of a layer as it runs, the norm before it included: the stream goes in and comes out with the
/// branch's result added.
class Block {
  public:
    virtual ~Block() = default;
    virtual Stream forward(const Stream& stream, const LayerPass& pass) const = 0;
    /// In the order of the checkpoint.
    virtual std::vector<nn::Linear*> linears() = 0;
    virtual std::vector<nn::Norm*> norms() = 0;
    /// The linears as they run: those of the entry as one product, then the output.
    virtual std::vector<nn::LinearGroup*> groups() = 0;
};

std::unique_ptr<Block> make_attention_block(const spec::Norm& pre, const spec::Attention& attention);
/// `ends_layer`: nothing of the layer comes after it.
std::unique_ptr<Block> make_mlp_block(const spec::Norm& pre, const spec::Mlp& mlp, bool ends_layer);

nn::Linear make_linear(const spec::Linear& linear);
std::vector<nn::Linear> make_linears(const std::vector<spec::Linear>& linears);
std::vector<nn::Linear*> pointers_to(std::vector<nn::Linear>& linears);
nn::Norm make_norm(const spec::Norm& norm);

}  // namespace qlora::models
