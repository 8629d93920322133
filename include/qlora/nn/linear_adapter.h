#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "qlora/nn/forward_context.h"
#include "qlora/ops/frozen_weight.h"

namespace qlora::nn {

/// What a parameter-efficient method adds to one linear. Implemented in `adapters`.
class LinearAdapter {
  public:
    virtual ~LinearAdapter() = default;

    /// The adapted layer's output for x [T, in]; `base` and `bias` (may be undefined) are the layer's own.
    virtual at::Tensor forward(const at::Tensor& x, const ops::FrozenWeight& base, const at::Tensor& bias,
                               const ForwardContext& context) const = 0;
    /// fp32 [out, in] to add to the base weight when merging.
    virtual at::Tensor delta_weight() const = 0;
    /// Trainable tensors with the suffix of their checkpoint key, "lora_A.weight" say.
    virtual std::vector<std::pair<std::string, at::Tensor>> parameters() const = 0;
};

}  // namespace qlora::nn
