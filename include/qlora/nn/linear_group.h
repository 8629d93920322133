#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "qlora/nn/linear.h"
#include "qlora/ops/projection.h"

namespace qlora::nn {

/// Linears that share an input and run as one product: q/k/v, gate/up, or one alone. In fp32 and without
/// adapter dropout their effective weights W + scaling * B A are stacked in one matrix, made anew when an
/// adapter has changed. Kept or not, it holds the same bits.
class LinearGroup {
  public:
    /// The linears must outlive the group.
    explicit LinearGroup(std::vector<const Linear*> linears);

    ops::Projections projections(const ForwardContext& context) const;

    /// Whether the stacked matrix stays in memory between passes: 4 bytes a weight.
    void keep_dense(bool keep);

  private:
    bool trains_a_weight() const;
    bool folds() const;
    at::Tensor stacked() const;
    at::Tensor make_stacked() const;
    /// Changes of the adapters' values, as counted by the tensors themselves.
    std::vector<std::int64_t> versions() const;

    std::vector<const Linear*> linears_;
    bool keeps_ = false;
    mutable at::Tensor kept_;
    mutable std::vector<std::int64_t> kept_versions_;
};

}  // namespace qlora::nn
