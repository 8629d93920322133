#pragma once

#include <ATen/core/Tensor.h>

namespace qlora::ops {

/// cos and sin of the rotary angles, [T, head_dim / 2] each, in the compute dtype (computed in fp32, rounded
/// once).
struct RopeTable {
    at::Tensor cos;
    at::Tensor sin;
};

/// Angles positions[t] * inverse_frequency[i]; positions [T] int64, inverse_frequency [head_dim / 2] fp32.
RopeTable rope_table(const at::Tensor& positions, const at::Tensor& inverse_frequency, at::ScalarType dtype);

/// Rotates x [T, heads, head_dim] (halves convention of transformers' rotate_half). One node; backward
/// rotates back.
at::Tensor rope(const at::Tensor& x, const RopeTable& table);

}  // namespace qlora::ops
