#pragma once

#include <ATen/core/Tensor.h>

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

/// residual + project(x), or project(x) alone where residual is undefined.
at::Tensor project_residual(const at::Tensor& x, const at::Tensor& residual, Projections projections);

/// residual + project(swiglu(gate_up)); keeps gate_up alone.
at::Tensor swiglu_project_residual(const at::Tensor& gate_up, const at::Tensor& residual,
                                   Projections projections);

}  // namespace qlora::ops
