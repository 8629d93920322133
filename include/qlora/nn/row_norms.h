#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "qlora/nn/weight.h"

namespace qlora::nn {

/// Norms of the rows of W + scaling * B A for a frozen W, which is dequantized for that alone, a few rows at
/// a time: |W_j|^2 + 2 scaling B_j (A W_j^T) + scaling^2 B_j (A A^T) B_j^T, of which the first is kept. A
/// passes W like as many tokens as the rank. The error is that of fp32 sums.
class RowNorms {
  public:
    /// `weight` must outlive it; its values stay.
    explicit RowNorms(const Weight& weight) : weight_(weight) {}

    /// fp32 [out]; computed again when A or B has changed.
    at::Tensor of(const at::Tensor& a, const at::Tensor& b, double scaling) const;

  private:
    /// W A^T [out, r]; fills `squares_` where it is not there.
    at::Tensor products_with(const at::Tensor& a) const;

    const Weight& weight_;
    mutable at::Tensor squares_;  ///< |W_j|^2, fp64 [out]
    mutable at::Tensor norms_;
    mutable std::vector<std::int64_t> versions_;  ///< of A and B when `norms_` was made
};

}  // namespace qlora::nn
