#include "qlora/ops/activation.h"

#include "activation_backends.h"
#include "backend.h"

namespace qlora::ops {

at::Tensor activate(const at::Tensor& entered, ActivationRule rule, const at::Tensor& into) {
    return of_backend(entered, in_fp32::activate, in_bf16::activate, on_device::activate)(entered, rule,
                                                                                          into);
}

ActivationGradient activate_backward(const at::Tensor& g, const at::Tensor& entered, ActivationRule rule) {
    return of_backend(entered, in_fp32::activate_backward, in_bf16::activate_backward,
                      on_device::activate_backward)(g, entered, rule);
}

}  // namespace qlora::ops
