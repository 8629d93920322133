#pragma once

#include <ATen/core/Tensor.h>

namespace qlora::ops {

/// cos and sin of the rotary angles, [T, head_dim / 2] each, in the compute dtype (computed in fp32, rounded
/// once).
struct RopeTable {
    at::Tensor cos;
    at::Tensor sin;
};

/// `factor` times the cosines and sines of the angles positions[t] * inverse_frequency[i]; positions [T]
/// int64, inverse_frequency [dims / 2] fp32, or [T, dims / 2] where tokens differ in it.
RopeTable rope_table(const at::Tensor& positions, const at::Tensor& inverse_frequency, at::ScalarType dtype,
                     double factor = 1.0);

enum class RopeDirection { kForward, kBackward };

/// Rotates the first `heads` heads of each row of x [T, columns] in place (halves convention of transformers'
/// rotate_half); kBackward is the transposed rotation, for gradients. In bf16 each product is rounded, as
/// transformers does.
void rope_(at::Tensor& x, std::int64_t heads, std::int64_t head_dim, const RopeTable& table,
           RopeDirection direction);

}  // namespace qlora::ops
