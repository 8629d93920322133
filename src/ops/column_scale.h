#pragma once

#include <ATen/core/Tensor.h>

/// Factors on the columns of [T, n] tensors, fp32 [n], and their gradients. Rows may lie apart. Arithmetic is
/// fp32, results are rounded once.
namespace qlora::ops {

/// (scale * x + bias) + start in x's dtype, into `y` if it is defined, which may be x or start. bias and
/// start may be undefined; a part of a wider tensor can be each of them.
at::Tensor scale_columns(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& bias = {},
                         const at::Tensor& start = {}, at::Tensor y = {});

/// Sums over rows of g * x, fp32 [n], in a fixed order; x in g's dtype. Where `scaled` is defined it becomes
/// scale * g, and may be g.
at::Tensor column_products(const at::Tensor& g, const at::Tensor& x, const at::Tensor& scale = {},
                           at::Tensor scaled = {});

}  // namespace qlora::ops
