#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "../norm_backends.h"
#include "qlora/ops/device.h"

namespace qlora::ops::on_device {
namespace {

using kernels::NormKind;

const void* data(const at::Tensor& x) {
    return x.defined() ? x.const_data_ptr() : nullptr;
}

const float* floats(const at::Tensor& x) {
    return x.defined() ? x.const_data_ptr<float>() : nullptr;
}

}  // namespace

NormResult norm_forward(const at::Tensor& x, const Norm& norm, const NormTerms& terms) {
    const std::int64_t rows = x.size(0), size = x.size(1);
    const at::Tensor source = x.contiguous(), residual = adjacent(terms.residual),
                     added = adjacent(terms.added);
    const at::TensorOptions wide = source.options().dtype(at::kFloat);
    NormResult out{.y = terms.into.defined() ? terms.into : at::empty_like(source),
                   .statistics = {.inverse = at::empty({rows}, wide), .mean = {}},
                   .sum = residual.defined() ? at::empty_like(source) : at::Tensor()};
    void* sum = residual.defined() ? out.sum.mutable_data_ptr() : nullptr;
    float* inverse = out.statistics.inverse.mutable_data_ptr<float>();
    if (norm.kind == NormKind::kLayer) {
        out.statistics.mean = at::empty({rows}, wide);
        device_kernels(x)->layer_norm({.x = data(source),
                                       .residual = data(residual),
                                       .sum = sum,
                                       .weight = floats(norm.weight),
                                       .bias = floats(norm.bias),
                                       .eps = norm.eps,
                                       .rows = rows,
                                       .size = size,
                                       .y = out.y.mutable_data_ptr(),
                                       .y_stride = out.y.stride(0),
                                       .mean = out.statistics.mean.mutable_data_ptr<float>(),
                                       .inverse = inverse,
                                       .type = float_type(x.scalar_type())},
                                      current_stream(x));
        if (added.defined()) out.y = added + out.y * terms.multiplier;
        return out;
    }
    device_kernels(x)->rms_norm({.x = data(source),
                                 .residual = data(residual),
                                 .sum = sum,
                                 .weight = floats(norm.weight),
                                 .eps = norm.eps,
                                 .rows = rows,
                                 .size = size,
                                 .y = out.y.mutable_data_ptr(),
                                 .y_stride = out.y.stride(0),
                                 .inverse = inverse,
                                 .type = float_type(x.scalar_type()),
                                 .kind = norm.kind,
                                 .added = data(added),
                                 .multiplier = static_cast<float>(terms.multiplier)},
                                current_stream(x));
    return out;
}

at::Tensor norm_recompute(const at::Tensor& x, const Norm& norm, const NormStatistics& statistics) {
    const at::Tensor source = x.contiguous();
    at::Tensor y = at::empty_like(source);
    if (norm.kind == NormKind::kLayer) {
        device_kernels(x)->layer_norm_recompute({.x = data(source),
                                                 .weight = floats(norm.weight),
                                                 .bias = floats(norm.bias),
                                                 .mean = floats(statistics.mean),
                                                 .inverse = floats(statistics.inverse),
                                                 .rows = x.size(0),
                                                 .size = x.size(1),
                                                 .y = y.mutable_data_ptr(),
                                                 .y_stride = y.stride(0),
                                                 .type = float_type(x.scalar_type())},
                                                current_stream(x));
        return y;
    }
    device_kernels(x)->rms_norm_recompute({.x = data(source),
                                           .weight = floats(norm.weight),
                                           .inverse = floats(statistics.inverse),
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
    const at::Tensor g = dy.contiguous(), source = x.contiguous(), direct = adjacent(residual);
    at::Tensor dx = at::empty_like(source);
    if (norm.kind == NormKind::kLayer) {
        device_kernels(x)->layer_norm_backward({.dy = data(g),
                                                .x = data(source),
                                                .weight = floats(norm.weight),
                                                .mean = floats(statistics.mean),
                                                .inverse = floats(statistics.inverse),
                                                .residual = data(direct),
                                                .rows = x.size(0),
                                                .size = x.size(1),
                                                .dx = dx.mutable_data_ptr(),
                                                .type = float_type(x.scalar_type())},
                                               current_stream(x));
        return dx;
    }
    device_kernels(x)->rms_norm_backward({.dy = data(g),
                                          .x = data(source),
                                          .weight = floats(norm.weight),
                                          .inverse = floats(statistics.inverse),
                                          .residual = data(direct),
                                          .rows = x.size(0),
                                          .size = x.size(1),
                                          .dx = dx.mutable_data_ptr(),
                                          .type = float_type(x.scalar_type())},
                                         current_stream(x));
    return dx;
}

}  // namespace qlora::ops::on_device
