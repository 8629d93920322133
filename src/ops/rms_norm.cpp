#include "qlora/ops/rms_norm.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/rsqrt.h>
#include <torch/csrc/autograd/custom_function.h>

#include "qlora/kernels/elementwise.h"
#include "qlora/ops/device.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
namespace cpu = kernels::cpu;

/// Rows that a thread takes at least.
std::int64_t grain(std::int64_t size) {
    return std::max<std::int64_t>(1, (1 << 14) / std::max<std::int64_t>(1, size));
}

}  // namespace

NormResult rms_norm_forward(const at::Tensor& x, const at::Tensor& weight, double eps, const at::Tensor& into,
                            const at::Tensor& residual) {
    if (residual.defined() && device_kernels(x) == nullptr) {
        const at::Tensor sum = x + residual;
        NormResult out = rms_norm_forward(sum, weight, eps);
        out.sum = sum;
        return out;
    }
    if (!is_fp32(x) && device_kernels(x) == nullptr) {
        const at::Tensor wide = x.to(at::kFloat);
        const at::Tensor inverse = at::rsqrt(wide.pow(2).mean(-1).add_(eps));
        return {.y = rms_norm_recompute(x, weight, inverse), .inverse = inverse, .sum = {}};
    }
    const std::int64_t rows = x.size(0), size = x.size(1);
    const at::Tensor source = x.contiguous(), scale = fp32(weight);
    NormResult out{.y = into.defined() ? into : at::empty_like(source),
                   .inverse = at::empty({rows}, source.options().dtype(at::kFloat))};
    if (const kernels::KernelTable* device = device_kernels(x)) {
        const at::Tensor added = residual.defined() ? residual.contiguous() : residual;
        if (added.defined()) out.sum = at::empty_like(source);
        device->rms_norm({.x = source.const_data_ptr(),
                          .residual = added.defined() ? added.const_data_ptr() : nullptr,
                          .sum = added.defined() ? out.sum.mutable_data_ptr() : nullptr,
                          .weight = scale.const_data_ptr<float>(),
                          .eps = eps,
                          .rows = rows,
                          .size = size,
                          .y = out.y.mutable_data_ptr(),
                          .y_stride = out.y.stride(0),
                          .inverse = out.inverse.mutable_data_ptr<float>(),
                          .type = float_type(x.scalar_type())},
                         current_stream(x));
        return out;
    }
    const float* from = source.const_data_ptr<float>();
    const float* factors = scale.const_data_ptr<float>();
    float* y = out.y.mutable_data_ptr<float>();
    float* inverse = out.inverse.mutable_data_ptr<float>();
    at::parallel_for(0, rows, grain(size), [&](std::int64_t begin, std::int64_t end) {
        cpu::rms_norm(from + begin * size, factors, eps, end - begin, size, y + begin * size,
                      inverse + begin);
    });
    return out;
}

at::Tensor rms_norm_recompute(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inverse) {
    if (!is_fp32(x) && device_kernels(x) == nullptr) {
        const at::Tensor normed = (x.to(at::kFloat) * inverse.unsqueeze(1)).to(x.scalar_type());
        return normed.mul(weight.to(x.scalar_type()));
    }
    const std::int64_t rows = x.size(0), size = x.size(1);
    const at::Tensor source = x.contiguous(), scale = fp32(weight);
    at::Tensor y = at::empty_like(source);
    if (const kernels::KernelTable* device = device_kernels(x)) {
        device->rms_norm_recompute({.x = source.const_data_ptr(),
                                    .weight = scale.const_data_ptr<float>(),
                                    .inverse = inverse.const_data_ptr<float>(),
                                    .rows = rows,
                                    .size = size,
                                    .y = y.mutable_data_ptr(),
                                    .y_stride = y.stride(0),
                                    .type = float_type(x.scalar_type())},
                                   current_stream(x));
        return y;
    }
    const float* from = source.const_data_ptr<float>();
    const float* factors = scale.const_data_ptr<float>();
    const float* saved = inverse.const_data_ptr<float>();
    float* to = y.mutable_data_ptr<float>();
    at::parallel_for(0, rows, grain(size), [&](std::int64_t begin, std::int64_t end) {
        cpu::rms_norm_recompute(from + begin * size, factors, saved + begin, end - begin, size,
                                to + begin * size);
    });
    return y;
}

at::Tensor rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                             const at::Tensor& inverse, const at::Tensor& residual) {
    if (const kernels::KernelTable* device = device_kernels(x)) {
        const at::Tensor g = dy.contiguous(), source = x.contiguous(), scale = fp32(weight);
        const at::Tensor direct = residual.defined() ? residual.contiguous() : residual;
        at::Tensor dx = at::empty_like(source);
        device->rms_norm_backward({.dy = g.const_data_ptr(),
                                   .x = source.const_data_ptr(),
                                   .weight = scale.const_data_ptr<float>(),
                                   .inverse = inverse.const_data_ptr<float>(),
                                   .residual = direct.defined() ? direct.const_data_ptr() : nullptr,
                                   .rows = x.size(0),
                                   .size = x.size(1),
                                   .dx = dx.mutable_data_ptr(),
                                   .type = float_type(x.scalar_type())},
                                  current_stream(x));
        return dx;
    }
    if (!is_fp32(x)) {
        // With n = x * inverse and g = dy * weight: dx = inverse * (g - n * mean(g * n)).
        const at::Tensor normed = x.to(at::kFloat) * inverse.unsqueeze(1);
        at::Tensor g = dy.to(at::kFloat) * weight.to(at::kFloat);
        const at::Tensor projection = (g * normed).mean(-1, true);
        const at::Tensor dx =
            g.addcmul_(normed, projection, -1).mul_(inverse.unsqueeze(1)).to(x.scalar_type());
        return residual.defined() ? residual + dx : dx;
    }
    const std::int64_t rows = x.size(0), size = x.size(1);
    const at::Tensor g = dy.contiguous(), source = x.contiguous(), scale = fp32(weight);
    const at::Tensor direct = residual.defined() ? residual.contiguous() : residual;
    at::Tensor dx = at::empty_like(source);
    const float* from = source.const_data_ptr<float>();
    const float* gradient = g.const_data_ptr<float>();
    const float* factors = scale.const_data_ptr<float>();
    const float* saved = inverse.const_data_ptr<float>();
    const float* added = direct.defined() ? direct.const_data_ptr<float>() : nullptr;
    float* to = dx.mutable_data_ptr<float>();
    at::parallel_for(0, rows, grain(size), [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t at = begin * size;
        cpu::rms_norm_backward(gradient + at, from + at, factors, saved + begin,
                               added == nullptr ? nullptr : added + at, end - begin, size, to + at);
    });
    return dx;
}

at::Tensor rms_norm_weight_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                                    const at::Tensor& inverse) {
    const at::Tensor normed = (x.to(at::kFloat) * inverse.unsqueeze(1)).to(x.scalar_type());
    return (dy.to(at::kFloat) * normed).sum(0).to(weight.scalar_type());
}

namespace {

struct RmsNorm : Function<RmsNorm> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                              double eps) {
        const NormResult result = rms_norm_forward(x.reshape({-1, x.size(-1)}), weight, eps);
        ctx->save_for_backward({x, weight, result.inverse});
        return result.y.view(x.sizes());
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor x = saved[0].reshape({-1, saved[0].size(-1)}), &weight = saved[1],
                         &inverse = saved[2];
        const at::Tensor dy = grads[0].reshape(x.sizes());
        at::Tensor gx, gw;
        if (ctx->needs_input_grad(0)) {
            gx = rms_norm_backward(dy, x, weight, inverse).view(saved[0].sizes());
        }
        if (ctx->needs_input_grad(1)) gw = rms_norm_weight_gradient(dy, x, weight, inverse);
        return {gx, gw, at::Tensor()};
    }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
    return RmsNorm::apply(x, weight, eps);
}

}  // namespace qlora::ops
