#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "qlora/nn/forward_context.h"

/// Places in a model where a method of fine-tuning adds what is no part of a linear.
namespace qlora::models {

/// Inputs of the first layer that stand before each sequence (Lester et al. 2021).
class SoftPrompt {
  public:
    virtual ~SoftPrompt() = default;
    virtual std::int64_t tokens() const = 0;
    /// fp32 [tokens, hidden_size] with its graph; asked once a pass.
    virtual at::Tensor rows(const nn::ForwardContext& context) const = 0;
    virtual void to(at::Device device) = 0;  ///< with the model
};

/// Keys and values that stand before those of each sequence, neither normed nor turned (Li and Liang 2021).
class KeyValuePrefix {
  public:
    virtual ~KeyValuePrefix() = default;
    virtual std::int64_t tokens() const = 0;
    /// fp32 [2, tokens, kv_size] of each layer with their graph; asked once a pass. What makes them must be
    /// one node for all layers: a layer that runs again in backward has a backward pass of its own.
    virtual std::vector<at::Tensor> layers(const nn::ForwardContext& context) const = 0;
    virtual void to(at::Device device) = 0;  ///< with the model
};

/// A small network between a block and the residual stream, which what it makes is added to (Houlsby et al.
/// 2019). Where the block's output is normed or scaled before it joins the stream, it stands before that.
class Bottleneck {
  public:
    /// The stream before the block, the block's output, or the stream with that output.
    enum class Reads { kStream, kOutput, kSum };
    virtual ~Bottleneck() = default;
    virtual Reads reads() const = 0;
    /// start + network(x), both [T, hidden_size], in their dtype.
    virtual at::Tensor added_to(const at::Tensor& start, const at::Tensor& x,
                                const nn::ForwardContext& context) const = 0;
    virtual void to(at::Device device) = 0;  ///< with the model
};
/// Behind the branches of one layer, in the order of spec::Layer::branches; null behind which there is none.
using BranchBottlenecks = std::vector<std::shared_ptr<Bottleneck>>;

/// None by default. Batches, losses and heads never see what a hook adds: positions, rows and ids are those
/// of the text.
struct Hooks {
    std::shared_ptr<SoftPrompt> prompt;
    std::shared_ptr<KeyValuePrefix> prefix;
    /// Of each layer, or of none. Where branches all read the layer's input, they read their blocks' outputs.
    std::vector<BranchBottlenecks> bottlenecks;

    /// Positions that each sequence has before its first token: those of the prefix, then of the prompt.
    std::int64_t tokens() const { return (prefix ? prefix->tokens() : 0) + (prompt ? prompt->tokens() : 0); }
};

}  // namespace qlora::models
