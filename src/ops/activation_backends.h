#pragma once

#include "qlora/ops/activation.h"

/// activation.h where each kind of kernels runs: fp32 on the CPU, 16 bits on the CPU by LibTorch, a device.
namespace qlora::ops {

namespace in_fp32 {
at::Tensor activate(const at::Tensor& entered, ActivationRule rule, const at::Tensor& into);
ActivationGradient activate_backward(const at::Tensor& g, const at::Tensor& entered, ActivationRule rule);
}  // namespace in_fp32

namespace in_bf16 {
at::Tensor activate(const at::Tensor& entered, ActivationRule rule, const at::Tensor& into);
ActivationGradient activate_backward(const at::Tensor& g, const at::Tensor& entered, ActivationRule rule);
}  // namespace in_bf16

namespace on_device {
at::Tensor activate(const at::Tensor& entered, ActivationRule rule, const at::Tensor& into);
ActivationGradient activate_backward(const at::Tensor& g, const at::Tensor& entered, ActivationRule rule);
}  // namespace on_device

}  // namespace qlora::ops
