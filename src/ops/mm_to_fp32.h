#pragma once

#include <ATen/ATen.h>

namespace qlora::ops {

/// a b with fp32 sums and an fp32 result, for gradients of fp32 parameters.
inline at::Tensor mm_to_fp32(const at::Tensor& a, const at::Tensor& b) {
    if (a.scalar_type() == at::kFloat) return at::mm(a, b);
    if (a.is_cuda()) return at::mm(a, b, at::kFloat);
    return at::mm(a.to(at::kFloat), b.to(at::kFloat));
}

}  // namespace qlora::ops
