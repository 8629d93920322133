#pragma once

#include <ATen/core/Tensor.h>

#include "qlora/ops/norm.h"
#include "qlora/ops/projection.h"

namespace qlora::ops {

/// Whether the values of a node's result are read.
enum class NodeOutput {
    kUsed,
    kGraphOnly  ///< the result has shape and gradient, but no values: for a pass that only backward follows
};

/// The second half of a decoder layer as one autograd node that keeps nothing but `hidden`:
/// hidden + down(swiglu(gate_up(norm(hidden)))), hidden [T, d]. Backward makes the output of gate_up
/// [T, 2 * intermediate] again by one product; a layer keeps 61 % less (Llama's shapes) for a quarter more
/// arithmetic. Result and gradients are the bits of norm_project followed by swiglu_project_residual.
at::Tensor mlp_residual(const at::Tensor& hidden, const Norm& norm, Projections gate_up, Projections down,
                        NodeOutput output = NodeOutput::kUsed);

}  // namespace qlora::ops
