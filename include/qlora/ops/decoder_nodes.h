#pragma once

#include <ATen/core/Tensor.h>

#include "qlora/ops/activation.h"
#include "qlora/ops/norm.h"
#include "qlora/ops/projection.h"

/// The autograd nodes of a decoder layer. Each keeps as little as backward can do with and recomputes what
/// costs no product (norms, activations); the residual stream runs through them, so that its gradient is
/// summed where it is in the cache already.
namespace qlora::ops {

struct NormedProjection {
    at::Tensor y;         ///< [T, sum of out] = project(norm(hidden))
    at::Tensor residual;  ///< `hidden` itself, for what follows: its gradient joins that of the norm
};
/// `pending`, if defined, is added to `hidden` first: on a device the norm's kernel does that on its way.
NormedProjection norm_project(const at::Tensor& hidden, const Norm& norm, Projections projections,
                              const at::Tensor& pending = {});

/// residual + multiplier * project(x), without a sum where residual is undefined.
at::Tensor project_residual(const at::Tensor& x, const at::Tensor& residual, Projections projections,
                            double multiplier = 1.0);

/// residual + multiplier * project(activate(entered)), residual as above; keeps `entered` alone.
at::Tensor activate_project_residual(const at::Tensor& entered, const at::Tensor& residual,
                                     Projections projections, ActivationRule rule, double multiplier = 1.0);

/// residual + multiplier * norm(x), x and residual [T, size]; keeps x and the statistics of its rows.
at::Tensor norm_residual(const at::Tensor& x, const Norm& norm, const at::Tensor& residual,
                         double multiplier = 1.0);

}  // namespace qlora::ops
