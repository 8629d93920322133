#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace qlora::ops {

/// Gradient checkpointing: runs `segment(x)` without keeping its inner activations and runs it again in
/// backward. Exact to the bit, because the same operations run on the same values (dropout is counter-based).
/// The second result is only where backward starts: its values are never read.
/// x must require a gradient, or the segment's adapters would silently get none: that is checked.
at::Tensor recomputed(std::function<at::Tensor(const at::Tensor&)> segment, const at::Tensor& x);

/// The same of a segment with a further input that has a graph of its own and may be undefined: what a
/// segment captures must end in parameters, because its backward pass goes to the end of every graph it
/// meets.
using Segment = std::function<at::Tensor(const at::Tensor& x, const at::Tensor& further)>;
at::Tensor recomputed(Segment segment, const at::Tensor& x, const at::Tensor& further);

}  // namespace qlora::ops
