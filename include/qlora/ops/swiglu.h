#pragma once

#include <ATen/core/Tensor.h>

namespace qlora::ops {

/// silu(gate) * up, both [T, intermediate]; silu rounded to the dtype before the product (transformers'
/// LlamaMLP). Saves gate and up alone; the product is recomputed in backward. One node.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

}  // namespace qlora::ops
