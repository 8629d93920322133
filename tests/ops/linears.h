#pragma once

#include "qlora/ops/decoder_nodes.h"

#include <ATen/ops/zeros.h>

/// Single linear layers, through the node that every projection goes through.
namespace qlora::ops::test {

inline at::Tensor single(const at::Tensor& x, Projection part) {
    Projections projections;
    projections.parts.push_back(std::move(part));
    const at::Tensor zero = at::zeros({x.size(0), projections.out_features()}, x.scalar_type());
    return project_residual(x, zero, std::move(projections));
}

inline at::Tensor frozen_linear(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias) {
    return single(x, {.weight = &weight, .trained_weight = {}, .bias = bias});
}

inline at::Tensor trainable_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    return single(x, {.weight = nullptr, .trained_weight = weight, .bias = bias});
}

inline at::Tensor lora_linear(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias,
                              const at::Tensor& a, const at::Tensor& b, double scaling,
                              const DropoutSite& dropout) {
    return single(x,
                  {.weight = &weight,
                   .trained_weight = {},
                   .bias = bias,
                   .update = {.low_rank = LowRank{.a = a, .b = b, .scaling = scaling, .dropout = dropout}}});
}

}  // namespace qlora::ops::test
