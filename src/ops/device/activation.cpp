#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "../activation_backends.h"
#include "qlora/ops/device.h"

namespace qlora::ops::on_device {

at::Tensor activate(const at::Tensor& entered, ActivationRule rule, const at::Tensor& into) {
    const at::Tensor source = entered.contiguous();
    const std::int64_t rows = source.size(0), size = rule.size(source.size(1));
    at::Tensor y = into.defined() ? into : at::empty({rows, size}, source.options());
    device_kernels(source)->activate({.kind = rule.kind,
                                      .gated = rule.gated,
                                      .entered = source.const_data_ptr(),
                                      .rows = rows,
                                      .size = size,
                                      .y = y.mutable_data_ptr(),
                                      .y_stride = y.stride(0),
                                      .type = float_type(source.scalar_type())},
                                     current_stream(source));
    return y;
}

ActivationGradient activate_backward(const at::Tensor& g, const at::Tensor& entered, ActivationRule rule) {
    const at::Tensor source = entered.contiguous(), gradient = g.contiguous();
    const std::int64_t rows = source.size(0), size = rule.size(source.size(1));
    ActivationGradient out{.entered = at::empty_like(source), .y = at::empty({rows, size}, source.options())};
    device_kernels(source)->activate_backward({.kind = rule.kind,
                                               .gated = rule.gated,
                                               .dy = gradient.const_data_ptr(),
                                               .entered = source.const_data_ptr(),
                                               .rows = rows,
                                               .size = size,
                                               .d_entered = out.entered.mutable_data_ptr(),
                                               .y = out.y.mutable_data_ptr(),
                                               .y_stride = out.y.stride(0),
                                               .type = float_type(source.scalar_type())},
                                              current_stream(source));
    return out;
}

}  // namespace qlora::ops::on_device
