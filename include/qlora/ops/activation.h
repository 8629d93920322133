#pragma once

#include <ATen/core/Tensor.h>

#include "qlora/kernels/layer_kinds.h"

namespace qlora::ops {

/// What stands between the linears of an MLP: act(gate) * up, or act(x) where nothing is gated.
struct ActivationRule {
    kernels::Activation kind = kernels::Activation::kSilu;
    bool gated = true;

    /// Columns of the result, given those of what enters.
    std::int64_t size(std::int64_t entered) const { return gated ? entered / 2 : entered; }
};

/// [T, size] of `entered` [T, 2 * size], gate first, or [T, size] where nothing is gated. The activation is
/// rounded to the dtype before the product with up, as in transformers' MLPs. `into` as in norm.h.
at::Tensor activate(const at::Tensor& entered, ActivationRule rule, const at::Tensor& into = {});

struct ActivationGradient {
    at::Tensor entered;
    at::Tensor y;  ///< the forward result again, the same bits
};
ActivationGradient activate_backward(const at::Tensor& g, const at::Tensor& entered, ActivationRule rule);

}  // namespace qlora::ops
