#pragma once

#include "qlora/ops/projection.h"

/// `project` and its gradients where kernels of a device run: one product for base and adapters,
/// (W | scaling * B) (x | x A^T)^T, in the compute dtype.
namespace qlora::ops {

/// Gradients that reach a group of linears.
struct GroupGradient {
    at::Tensor results;   ///< of y
    at::Tensor products;  ///< of what output scales multiplied; `results` itself without them
};

at::Tensor device_project(const Projections& projections, const RoomyRows& x, const at::Tensor& residual,
                          at::Tensor* product);
/// Gradient of x; `low_rank` becomes scaling * g B [T, appended], which the same product makes.
at::Tensor device_project_backward(const Projections& projections, const GroupGradient& g,
                                   at::Tensor& low_rank);
/// Of each part all but its scales.
std::vector<std::vector<at::Tensor>> device_parameter_gradients(const Projections& projections,
                                                                const at::Tensor& x, const GroupGradient& g,
                                                                at::Tensor low_rank);

}  // namespace qlora::ops
