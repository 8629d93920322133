#pragma once

#include <ATen/core/Tensor.h>

#include "qlora/kernels/layer_kinds.h"

namespace qlora::ops {

/// A norm of the last dimension. The kinds' formulas stand in layer_kinds.h.
struct Norm {
    kernels::NormKind kind = kernels::NormKind::kRms;
    at::Tensor weight;  ///< fp32 [size], as it multiplies: a 1 that some models add is in it
    at::Tensor bias;    ///< fp32 [size] of kLayer, or undefined
    double eps = 0.0;
};

/// What a norm keeps of its rows, fp32 [rows].
struct NormStatistics {
    at::Tensor inverse;  ///< 1 / sqrt(mean(x^2) + eps), of kLayer 1 / sqrt(variance(x) + eps)
    at::Tensor mean;     ///< of kLayer alone
};

struct NormResult {
    at::Tensor y;
    NormStatistics statistics;
    at::Tensor sum;  ///< x + residual, which was normed; undefined without residual
};

/// y = norm(x) over the last dimension of x [rows, size], in x's dtype; statistics in fp32. `residual`, if
/// defined, is added to x first. `into`, if defined, is the memory of y, whose rows may lie apart; only where
/// kernels of a device run.
NormResult norm_forward(const at::Tensor& x, const Norm& norm, const at::Tensor& into = {},
                        const at::Tensor& residual = {});
/// The same with y = added + multiplier * norm(x), the norm rounded to x's dtype, then the product, then the
/// sum.
NormResult norm_added(const at::Tensor& x, const Norm& norm, const at::Tensor& added, double multiplier);
/// y of the same bits again, from the saved statistics.
at::Tensor norm_recompute(const at::Tensor& x, const Norm& norm, const NormStatistics& statistics);
/// Gradient of x for dy, plus `residual` (the gradient that reached x directly) if defined.
at::Tensor norm_backward(const at::Tensor& dy, const at::Tensor& x, const Norm& norm,
                         const NormStatistics& statistics, const at::Tensor& residual = {});
/// Gradients of weight and bias, fp32.
at::Tensor norm_weight_gradient(const at::Tensor& dy, const at::Tensor& x, const Norm& norm,
                                const NormStatistics& statistics);
at::Tensor norm_bias_gradient(const at::Tensor& dy);

/// The same as an autograd node, over the last dimension of any x. Weight and bias may require gradients.
at::Tensor normed(const at::Tensor& x, const Norm& norm);

}  // namespace qlora::ops
