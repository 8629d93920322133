#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "qlora/nn/linear.h"

namespace qlora::nn {

/// On the CPU: the weights of linears that share an input in one fp32 matrix, one under the other. In fp32
/// and without adapter dropout they are W + scaling * B A, made anew when an adapter has changed. Kept or
/// not, the matrix holds the same bits.
class StackedWeights {
  public:
    /// The linears must outlive it.
    explicit StackedWeights(std::vector<Linear*> linears) : linears_(std::move(linears)) {}

    /// Whether the matrix holds what the adapters add.
    bool folds() const;
    at::Tensor matrix() const;  ///< [sum of out, in]
    /// Whether the matrix stays in memory between passes: 4 bytes a weight.
    void keep(bool keep);

  private:
    at::Tensor make() const;

    std::vector<Linear*> linears_;
    bool keeps_ = false;
    mutable at::Tensor kept_;
    mutable std::vector<std::int64_t> kept_versions_;
};

}  // namespace qlora::nn
