#include "qlora/ops/swiglu.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>

#include "qlora/kernels/elementwise.h"
#include "qlora/ops/device.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops {
namespace {

constexpr std::int64_t kGrainRows = 4;

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up, const at::Tensor& into) {
    const std::int64_t rows = gate_up.size(0), size = gate_up.size(1) / 2;
    if (const kernels::KernelTable* device = device_kernels(gate_up)) {
        const at::Tensor source = gate_up.contiguous();
        at::Tensor y = into.defined() ? into : at::empty({rows, size}, source.options());
        device->swiglu({.gate_up = source.const_data_ptr(),
                        .rows = rows,
                        .size = size,
                        .y = y.mutable_data_ptr(),
                        .y_stride = y.stride(0),
                        .type = float_type(source.scalar_type())},
                       current_stream(source));
        return y;
    }
    if (gate_up.scalar_type() != at::kFloat) {
        return at::silu(gate_up.narrow(1, 0, size)).mul_(gate_up.narrow(1, size, size));
    }
    const at::Tensor source = gate_up.contiguous();
    at::Tensor y = empty_left_factor(rows, size);
    const float* from = source.const_data_ptr<float>();
    float* to = y.mutable_data_ptr<float>();
    const std::int64_t stride = y.stride(0);
    at::parallel_for(0, rows, kGrainRows, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            kernels::cpu::swiglu(from + row * 2 * size, 1, size, to + row * stride);
        }
    });
    return y;
}

SwigluGradient swiglu_backward(const at::Tensor& g, const at::Tensor& gate_up) {
    const std::int64_t rows = gate_up.size(0), size = gate_up.size(1) / 2;
    if (const kernels::KernelTable* device = device_kernels(gate_up)) {
        const at::Tensor source = gate_up.contiguous(), gradient = g.contiguous();
        SwigluGradient out{.gate_up = at::empty_like(source), .y = at::empty({rows, size}, source.options())};
        device->swiglu_backward({.dy = gradient.const_data_ptr(),
                                 .gate_up = source.const_data_ptr(),
                                 .rows = rows,
                                 .size = size,
                                 .d_gate_up = out.gate_up.mutable_data_ptr(),
                                 .y = out.y.mutable_data_ptr(),
                                 .y_stride = out.y.stride(0),
                                 .type = float_type(source.scalar_type())},
                                current_stream(source));
        return out;
    }
    if (gate_up.scalar_type() != at::kFloat) {
        const at::Tensor gate = gate_up.narrow(1, 0, size), up = gate_up.narrow(1, size, size);
        const at::Tensor activation = at::silu(gate);
        return {.gate_up = at::cat({at::silu_backward(g * up, gate), activation * g}, 1),
                .y = activation * up};
    }
    const at::Tensor source = gate_up.contiguous(), gradient = g.contiguous();
    SwigluGradient out{.gate_up = empty_left_factor(rows, 2 * size), .y = empty_left_factor(rows, size)};
    const float* from = source.const_data_ptr<float>();
    const float* d_out = gradient.const_data_ptr<float>();
    float* d_gate_up = out.gate_up.mutable_data_ptr<float>();
    float* y = out.y.mutable_data_ptr<float>();
    const std::int64_t gradient_stride = out.gate_up.stride(0), stride = out.y.stride(0);
    at::parallel_for(0, rows, kGrainRows, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            kernels::cpu::swiglu_backward(d_out + row * size, from + row * 2 * size, 1, size,
                                          d_gate_up + row * gradient_stride, y + row * stride);
        }
    });
    return out;
}

}  // namespace qlora::ops
