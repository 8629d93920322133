#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

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

/// y = x W^T + bias. x [T, in] fp32 or bf16, y of x's dtype, products accumulated in fp32 and rounded once.
/// Gradients flow to x and to a bias that requires one; W is frozen. One autograd node. `weight` must outlive
/// backward.
at::Tensor frozen_linear(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias);

/// y = x W^T + bias + scaling * (dropout(x) A^T) B^T, A [r, in] and B [out, r] fp32 (Hu et al. 2021, equation
/// 3; as peft's lora.Linear.forward): x upcast for the adapter, its result rounded once into y. One autograd
/// node.
at::Tensor lora_linear(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias,
                       const at::Tensor& lora_a, const at::Tensor& lora_b, double scaling,
                       const DropoutSite& dropout);

/// y = x W^T + bias with a trainable fp32 W [out, in] (modules_to_save).
at::Tensor trainable_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// a [m, k] times b [k, n] accumulated in fp32, rounded once to `dtype`. ATen's bf16 products on CPUs without
/// bf16 units are 5 to 110 times slower than this.
at::Tensor matmul_fp32(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype);

}  // namespace qlora::ops
