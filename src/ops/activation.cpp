#include "qlora/ops/activation.h"

#include "activation_backends.h"
#include "qlora/ops/device.h"

namespace qlora::ops {

at::Tensor activate(const at::Tensor& entered, ActivationRule rule, const at::Tensor& into) {
    if (device_kernels(entered) != nullptr) return on_device::activate(entered, rule, into);
    return entered.scalar_type() == at::kFloat ? in_fp32::activate(entered, rule)
                                               : in_bf16::activate(entered, rule);
}

ActivationGradient activate_backward(const at::Tensor& g, const at::Tensor& entered, ActivationRule rule) {
    if (device_kernels(entered) != nullptr) return on_device::activate_backward(g, entered, rule);
    return entered.scalar_type() == at::kFloat ? in_fp32::activate_backward(g, entered, rule)
                                               : in_bf16::activate_backward(g, entered, rule);
}

}  // namespace qlora::ops
