#pragma once

#include <vector>

#include "qlora/nn/extended_weights.h"
#include "qlora/nn/linear.h"
#include "qlora/nn/stacked_weights.h"
#include "qlora/ops/projection.h"

namespace qlora::nn {

/// Linears that share an input and run as one product: q/k/v, gate/up, or one alone. It says in which form
/// they run: stacked, extended, or apart where one of them trains its weight.
class LinearGroup {
  public:
    /// The linears must outlive the group.
    explicit LinearGroup(std::vector<Linear*> linears);

    ops::Projections projections(const ForwardContext& context) const;

    /// Whether the matrix of a product stays in memory between passes: 4 bytes a weight, on a device as many
    /// as the compute dtype has.
    void keep_dense(bool keep);
    /// On a device: ExtendedWeights::move_together.
    bool move_weights_together();
    /// On a device: ExtendedWeights::use_scratch.
    void use_scratch(WeightScratch* scratch) { extended_.use_scratch(scratch); }
    const ScratchSource& scratch_source() const { return extended_; }

  private:
    bool runs_on_device() const;

    std::vector<Linear*> linears_;
    StackedWeights stacked_;
    ExtendedWeights extended_;
};

}  // namespace qlora::nn
