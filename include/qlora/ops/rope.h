#pragma once

#include <ATen/core/Tensor.h>

namespace qlora::ops {

/// cos and sin of the rotary angles, [T, dims / 2] each (computed in fp32, rounded once): the first `dims`
/// dimensions of a head turn, the others pass. Where they have the dtype of what they turn, each product is
/// rounded to it; fp32 ones turn 16-bit heads in fp32, and the result alone is rounded.
struct RopeTable {
    at::Tensor cos;
    at::Tensor sin;
    bool pairs = false;  ///< dimension 2i turns with 2i + 1; else i with i + dims / 2

    std::int64_t dims() const { return 2 * cos.size(1); }
};

/// `factor` times the cosines and sines of the angles positions[t] * inverse_frequency[i]; positions [T]
/// int64, inverse_frequency [dims / 2] fp32, or [T, dims / 2] where tokens differ in it.
RopeTable rope_table(const at::Tensor& positions, const at::Tensor& inverse_frequency, at::ScalarType dtype,
                     double factor = 1.0);

enum class RopeDirection { kForward, kBackward };

/// The heads of a row that turn: `heads` side by side from the first column on, and as many again from each
/// further multiple of `group_stride` columns, `groups` times in all.
struct TurnedHeads {
    std::int64_t heads, head_dim;
    std::int64_t groups = 1, group_stride = 0;
};

/// Rotates these heads of each row of x [T, columns] in place; kBackward is the transposed rotation, for
/// gradients. Rounds as transformers does (RopeTable).
void rope_(at::Tensor& x, const TurnedHeads& heads, const RopeTable& table, RopeDirection direction);

}  // namespace qlora::ops
