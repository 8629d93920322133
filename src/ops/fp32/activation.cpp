#include <ATen/Parallel.h>

#include "../activation_backends.h"
#include "qlora/kernels/elementwise.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops::in_fp32 {
namespace {

constexpr std::int64_t kGrainRows = 4;

}  // namespace

at::Tensor activate(const at::Tensor& entered, ActivationRule rule, const at::Tensor& /*into*/) {
    const at::Tensor source = entered.contiguous();
    const std::int64_t rows = source.size(0), columns = source.size(1), size = rule.size(columns);
    at::Tensor y = empty_left_factor(rows, size);
    const float* from = source.const_data_ptr<float>();
    float* to = y.mutable_data_ptr<float>();
    const std::int64_t stride = y.stride(0);
    at::parallel_for(0, rows, kGrainRows, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            kernels::cpu::activate(rule.kind, rule.gated, from + row * columns, 1, size, to + row * stride);
        }
    });
    return y;
}

ActivationGradient activate_backward(const at::Tensor& g, const at::Tensor& entered, ActivationRule rule) {
    const at::Tensor source = entered.contiguous(), gradient = g.contiguous();
    const std::int64_t rows = source.size(0), columns = source.size(1), size = rule.size(columns);
    ActivationGradient out{.entered = empty_left_factor(rows, columns), .y = empty_left_factor(rows, size)};
    const float* from = source.const_data_ptr<float>();
    const float* d_out = gradient.const_data_ptr<float>();
    float* d_entered = out.entered.mutable_data_ptr<float>();
    float* y = out.y.mutable_data_ptr<float>();
    const std::int64_t gradient_stride = out.entered.stride(0), stride = out.y.stride(0);
    at::parallel_for(0, rows, kGrainRows, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            kernels::cpu::activate_backward(rule.kind, rule.gated, d_out + row * size, from + row * columns,
                                            1, size, d_entered + row * gradient_stride, y + row * stride);
        }
    });
    return out;
}

}  // namespace qlora::ops::in_fp32
