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

/// None by default. Batches, losses and heads never see what a hook adds: positions, rows and ids are those
/// of the text.
struct Hooks {
    std::shared_ptr<SoftPrompt> prompt;
    std::shared_ptr<KeyValuePrefix> prefix;

    /// Positions that each sequence has before its first token: those of the prefix, then of the prompt.
    std::int64_t tokens() const { return (prefix ? prefix->tokens() : 0) + (prompt ? prompt->tokens() : 0); }
};

}  // namespace qlora::models
