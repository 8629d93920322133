#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "qlora/nn/forward_context.h"
#include "qlora/ops/projection.h"

namespace qlora::nn {

/// What a parameter-efficient method makes of one linear. Implemented in `adapters`.
class LinearAdapter {
  public:
    virtual ~LinearAdapter() = default;

    /// What it makes of the layer in this pass.
    virtual ops::LinearUpdate update(const ForwardContext& context) const = 0;
    /// Whether what it adds to the output can be added to the weight instead: no dropout.
    virtual bool folds() const = 0;
    /// Adds to `rows` [n, in] fp32, which are rows first .. first + n - 1 of the weight, what the adapter
    /// adds to the weight there; in place.
    virtual void add_delta(at::Tensor& rows, std::int64_t first) const = 0;
    /// The tensors that `add_delta` and the update's A and B are made of: a matrix that holds them is made
    /// again when one has changed.
    virtual std::vector<at::Tensor> matrices() const = 0;
    /// Trainable tensors with the suffix of their checkpoint key, "lora_A.weight" say.
    virtual std::vector<std::pair<std::string, at::Tensor>> parameters() const = 0;
};

}  // namespace qlora::nn
