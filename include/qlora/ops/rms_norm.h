#pragma once

#include <ATen/core/Tensor.h>

namespace qlora::ops {

/// y = weight * round(x / sqrt(mean(x^2) + eps)) over the last dimension, statistics in fp32, the normalised
/// value rounded to x's dtype before the weight (transformers' LlamaRMSNorm). Weight may require a gradient.
/// One node.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace qlora::ops
