#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <vector>

#include "qlora/models/decoder_spec.h"
#include "qlora/models/hooks.h"
#include "qlora/models/kv_cache.h"
#include "qlora/models/token_batch.h"
#include "qlora/nn/linear_group.h"
#include "qlora/nn/norm.h"

namespace qlora::models {

class Layer;
class RotaryEmbedding;

/// The layers of a decoder and its last norm, as a DecoderSpec describes them: what lies between an embedding
/// and a head. Made empty.
class Stack {
  public:
    Stack(const DecoderSpec& decoder, at::ScalarType compute_dtype);
    ~Stack();

    /// hidden [T, hidden_size], which it may make a variable -> final normed states [T, hidden_size], or of
    /// `rows` [R] int64 alone if defined: then the last layer too runs on them alone wherever a token does
    /// not need its neighbours. With `caches` (one a sequence) new tokens follow the cached ones; without
    /// them `prefix` (of each layer, or of none; KeyValuePrefix::layers) stands before each sequence.
    at::Tensor forward(at::Tensor hidden, const TokenBatch& batch, const nn::ForwardContext& context,
                       const at::Tensor& rows, std::span<KvCache* const> caches,
                       std::span<const at::Tensor> prefix) const;

    /// Of each layer, or of none.
    void set_bottlenecks(const std::vector<BranchBottlenecks>& bottlenecks);

    std::vector<nn::Linear*> linears();  ///< in checkpoint order
    std::vector<nn::Norm*> norms();
    std::vector<std::vector<nn::LinearGroup*>> groups();  ///< of each layer, as they run
    void to(at::Device device);

  private:
    /// One for each of DecoderSpec::ropes; none where no layer reads it.
    std::vector<std::unique_ptr<RotaryEmbedding>> ropes_;
    std::vector<std::unique_ptr<Layer>> layers_;
    nn::Norm norm_;
};

}  // namespace qlora::models
