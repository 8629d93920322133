#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "qlora/ops/frozen_weight.h"

namespace qlora::ops {

/// Counter of one dropout mask: the same numbers give the same mask on every device and under recomputation.
struct DropoutSite {
    double p = 0.0;          ///< 0 = off
    std::uint64_t seed = 0;  ///< of the run
    std::uint32_t step = 0;  ///< micro-batch since the start of the run
    std::uint32_t site = 0;  ///< of the adapter in the model
};

/// x scaled by 1 / (1 - p) where kept, else 0; x fp32 [T, in]. No gradient of its own.
at::Tensor apply_dropout(const at::Tensor& x, const DropoutSite& site);

/// scaling * (dropout(x) A^T) B^T, A [r, in] and B [out, r] fp32 (Hu et al. 2021, equation 3; peft's
/// lora.Linear.forward).
struct LowRank {
    at::Tensor a, b;
    double scaling = 1.0;
    DropoutSite dropout;
};

/// One linear layer as products see it.
struct Projection {
    const FrozenWeight* weight = nullptr;
    at::Tensor trained_weight;  ///< fp32 [out, in] in the place of `weight` (modules_to_save), else undefined
    at::Tensor bias;            ///< [out] or undefined
    std::optional<LowRank> adapter;

    std::int64_t out_features() const;
};

/// Linear layers of one input, their outputs side by side: y [T, sum of out] = x W^T + bias + adapters.
/// Everything that `parts` point to must outlive backward.
struct Projections {
    std::vector<Projection> parts;
    /// fp32 [sum of out, in]: all weights one under the other, so that one product serves all; empty when a
    /// part trains its weight. Called once in each pass.
    std::function<at::Tensor()> stacked;
    /// `stacked` holds W + scaling * B A: the adapters need no products of their own.
    bool folded = false;
    /// Without gradients and for at most kFewRows rows, weights are multiplied as they are stored and
    /// adapters apart: generation reads an eighth of the bytes. The same sums in another order.
    bool from_storage = false;

    std::int64_t out_features() const;
    /// What requires a gradient, in the order of `parameter_gradients`.
    std::vector<at::Tensor> parameters() const;
};

/// y in x's dtype (fp32 or bf16). Sums in fp32; in bf16 the base's result is rounded before the adapter's is
/// added in fp32 and the sum rounded, as peft does. In fp32 `residual` [T, sum of out], if defined, is where
/// the sums start; in bf16 it is added to the rounded y.
at::Tensor project(const Projections& projections, const at::Tensor& x, const at::Tensor& residual = {});

/// Gradient of x for g [T, sum of out], the gradient of y; g's dtype.
at::Tensor project_backward(const Projections& projections, const at::Tensor& g);
/// Gradients of projections.parameters().
std::vector<at::Tensor> parameter_gradients(const Projections& projections, const at::Tensor& x,
                                            const at::Tensor& g);

}  // namespace qlora::ops
