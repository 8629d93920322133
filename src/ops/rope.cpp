#include "qlora/ops/rope.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>

#include "qlora/kernels/elementwise.h"
#include "qlora/ops/device.h"

namespace qlora::ops {

RopeTable rope_table(const at::Tensor& positions, const at::Tensor& inverse_frequency, at::ScalarType dtype,
                     double factor) {
    const at::Tensor angles = positions.to(at::kFloat).unsqueeze(1) * inverse_frequency;
    if (factor == 1.0) return {.cos = angles.cos().to(dtype), .sin = angles.sin().to(dtype)};
    return {.cos = (angles.cos() * factor).to(dtype), .sin = (angles.sin() * factor).to(dtype)};
}

void rope_(at::Tensor& x, std::int64_t heads, std::int64_t head_dim, const RopeTable& table,
           RopeDirection direction) {
    const std::int64_t tokens = x.size(0), half = head_dim / 2;
    TORCH_CHECK(x.dim() == 2 && x.stride(1) == 1 && x.size(1) >= heads * head_dim, "rope_: rows too short");
    const int sign = direction == RopeDirection::kForward ? 1 : -1;
    if (const kernels::KernelTable* device = device_kernels(x)) {
        device->rope({.x = x.mutable_data_ptr(),
                      .cos = table.cos.const_data_ptr(),
                      .sin = table.sin.const_data_ptr(),
                      .tokens = tokens,
                      .heads = heads,
                      .head_dim = head_dim,
                      .row_stride = x.stride(0),
                      .direction = sign,
                      .type = float_type(x.scalar_type())},
                     current_stream(x));
        return;
    }
    if (x.scalar_type() == at::kFloat) {
        const std::int64_t stride = x.stride(0);
        float* data = x.mutable_data_ptr<float>();
        const float* cos = table.cos.const_data_ptr<float>();
        const float* sin = table.sin.const_data_ptr<float>();
        at::parallel_for(0, tokens, 16, [&](std::int64_t begin, std::int64_t end) {
            kernels::cpu::rope(data + begin * stride, cos + begin * half, sin + begin * half, end - begin,
                               heads, head_dim, stride, sign);
        });
        return;
    }
    at::Tensor of_heads = x.narrow(1, 0, heads * head_dim).view({tokens, heads, head_dim});
    at::Tensor first = of_heads.narrow(2, 0, half), second = of_heads.narrow(2, half, half);
    const at::Tensor c = table.cos.unsqueeze(1), s = table.sin.unsqueeze(1);
    const at::Tensor turned = sign > 0 ? first * c - second * s : first * c + second * s;
    second.copy_(sign > 0 ? second * c + first * s : second * c - first * s);
    first.copy_(turned);
}

}  // namespace qlora::ops
