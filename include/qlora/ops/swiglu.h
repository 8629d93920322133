#pragma once

#include <ATen/core/Tensor.h>

namespace qlora::ops {

/// silu(gate) * up [T, intermediate] of gate_up [T, 2 * intermediate], gate first; silu is rounded to the
/// dtype before the product (transformers' LlamaMLP). `into` as in rms_norm.h.
at::Tensor swiglu(const at::Tensor& gate_up, const at::Tensor& into = {});

struct SwigluGradient {
    at::Tensor gate_up;
    at::Tensor y;  ///< the forward result again, the same bits
};
SwigluGradient swiglu_backward(const at::Tensor& g, const at::Tensor& gate_up);

}  // namespace qlora::ops
