#pragma once

#include <ATen/core/Tensor.h>

namespace qlora::nn {

/// Moves a tensor that may be undefined. A parameter stays the same tensor, wherever else it is known.
void move_to(at::Tensor& tensor, at::Device device);

}  // namespace qlora::nn
