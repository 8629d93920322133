#pragma once

#include <ATen/core/Tensor.h>

namespace qlora::ops {

struct NormResult {
    at::Tensor y;
    at::Tensor inverse;  ///< fp32 [rows]: 1 / sqrt(mean(x^2) + eps)
    at::Tensor sum;      ///< x + residual, which was normed; undefined without residual
};

/// y = weight * round(x / sqrt(mean(x^2) + eps)) over the last dimension of x [rows, size], statistics in
/// fp32, the normalised value rounded to x's dtype before the weight (transformers' LlamaRMSNorm).
/// `residual`, if defined, is added to x first. `into`, if defined, is the memory of y, whose rows may lie
/// apart; only where kernels of a device run.
NormResult rms_norm_forward(const at::Tensor& x, const at::Tensor& weight, double eps,
                            const at::Tensor& into = {}, const at::Tensor& residual = {});
/// y of the same bits again, from the saved statistics.
at::Tensor rms_norm_recompute(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inverse);
/// Gradient of x for dy, plus `residual` (the gradient that reached x directly) if defined.
at::Tensor rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                             const at::Tensor& inverse, const at::Tensor& residual = {});
/// Gradient of the weight, in its dtype.
at::Tensor rms_norm_weight_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                                    const at::Tensor& inverse);

/// The same as an autograd node, over the last dimension of any x. Weight may require a gradient.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace qlora::ops
