#pragma once

#include "qlora/ops/projection.h"

/// `project` and its gradients where kernels of a device run: one product for base and adapters,
/// (W | scaling * B) (x | x A^T)^T, in the compute dtype.
namespace qlora::ops {

at::Tensor device_project(const Projections& projections, const RoomyRows& x, const at::Tensor& residual);
/// Gradient of x; `low_rank` becomes scaling * g B [T, appended], which the same product makes.
at::Tensor device_project_backward(const Projections& projections, const at::Tensor& g, at::Tensor& low_rank);
std::vector<at::Tensor> device_parameter_gradients(const Projections& projections, const at::Tensor& x,
                                                   const at::Tensor& g, at::Tensor low_rank);

}  // namespace qlora::ops
