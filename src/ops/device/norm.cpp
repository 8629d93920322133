#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "../norm_backends.h"
#include "qlora/ops/device.h"

namespace qlora::ops::on_device {
namespace {

void require_rms(const Norm& norm) {
    TORCH_CHECK(norm.kind != kernels::NormKind::kLayer, "LayerNorm has no kernels on a device");
}

}  // namespace

NormResult norm_forward(const at::Tensor& x, const Norm& norm, const NormTerms& terms) {
    require_rms(norm);
    const std::int64_t rows = x.size(0), size = x.size(1);
    const at::Tensor source = x.contiguous();
    const bool adds = terms.residual.defined();
    const at::Tensor added = adds ? terms.residual.contiguous() : at::Tensor();
    NormResult out{
        .y = terms.into.defined() ? terms.into : at::empty_like(source),
        .statistics = {.inverse = at::empty({rows}, source.options().dtype(at::kFloat)), .mean = {}},
        .sum = adds ? at::empty_like(source) : at::Tensor()};
    device_kernels(x)->rms_norm({.x = source.const_data_ptr(),
                                 .residual = adds ? added.const_data_ptr() : nullptr,
                                 .sum = adds ? out.sum.mutable_data_ptr() : nullptr,
                                 .weight = norm.weight.const_data_ptr<float>(),
                                 .eps = norm.eps,
                                 .rows = rows,
                                 .size = size,
                                 .y = out.y.mutable_data_ptr(),
                                 .y_stride = out.y.stride(0),
                                 .inverse = out.statistics.inverse.mutable_data_ptr<float>(),
                                 .type = float_type(x.scalar_type()),
                                 .kind = norm.kind},
                                current_stream(x));
    return out;
}

at::Tensor norm_recompute(const at::Tensor& x, const Norm& norm, const NormStatistics& statistics) {
    require_rms(norm);
    const at::Tensor source = x.contiguous();
    at::Tensor y = at::empty_like(source);
    device_kernels(x)->rms_norm_recompute({.x = source.const_data_ptr(),
                                           .weight = norm.weight.const_data_ptr<float>(),
                                           .inverse = statistics.inverse.const_data_ptr<float>(),
                                           .rows = x.size(0),
                                           .size = x.size(1),
                                           .y = y.mutable_data_ptr(),
                                           .y_stride = y.stride(0),
                                           .type = float_type(x.scalar_type()),
                                           .kind = norm.kind},
                                          current_stream(x));
    return y;
}

at::Tensor norm_backward(const at::Tensor& dy, const at::Tensor& x, const Norm& norm,
                         const NormStatistics& statistics, const at::Tensor& residual) {
    require_rms(norm);
    const at::Tensor g = dy.contiguous(), source = x.contiguous();
    const at::Tensor direct = residual.defined() ? residual.contiguous() : residual;
    at::Tensor dx = at::empty_like(source);
    device_kernels(x)->rms_norm_backward({.dy = g.const_data_ptr(),
                                          .x = source.const_data_ptr(),
                                          .weight = norm.weight.const_data_ptr<float>(),
                                          .inverse = statistics.inverse.const_data_ptr<float>(),
                                          .residual = direct.defined() ? direct.const_data_ptr() : nullptr,
                                          .rows = x.size(0),
                                          .size = x.size(1),
                                          .dx = dx.mutable_data_ptr(),
                                          .type = float_type(x.scalar_type())},
                                         current_stream(x));
    return dx;
}

}  // namespace qlora::ops::on_device
