#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "qlora/nn/linear.h"
#include "qlora/nn/weight_scratch.h"
#include "qlora/ops/projection.h"

namespace qlora::nn {

/// On a device: the operands of one product for the weights of linears that share an input and for their
/// adapters, in the compute dtype. Kept or not, they hold the same bits.
class ExtendedWeights final : public ScratchSource {
  public:
    /// The linears must outlive it.
    explicit ExtendedWeights(std::vector<Linear*> linears) : linears_(std::move(linears)) {}

    ops::DeviceOperands operands() const;
    at::Tensor a() const;  ///< that of the operands
    /// Whether the weight stays in memory between passes.
    void keep(bool keep);
    /// Moves the weights into one matrix with room for the adapters' columns, which every product then reads
    /// in place, and returns true; it takes no more memory than they did. Not where one is packed or trained.
    /// Called once adapters are set; a later call with other ranks moves them again.
    bool move_together();
    /// Where a weight that is not kept is written; outlives the use of this. Null: it has memory of its own.
    void use_scratch(WeightScratch* scratch) { scratch_ = scratch; }

    std::vector<std::int64_t> scratch_shape() const override;
    void prepare_scratch() const override { update_adapters(); }
    std::vector<std::int64_t> scratch_version() const override { return adapter_versions_; }
    void write_scratch(at::Tensor& out) const override;
    std::vector<at::Tensor> scratch_inputs() const override;

  private:
    /// Columns behind those of the weights.
    std::int64_t appended_columns() const;
    /// Brings `a_` and `columns_` up to date.
    void update_adapters() const;

    std::vector<Linear*> linears_;
    bool keeps_ = false;
    bool holds_weights_ = false;  ///< `kept_` is where the weights themselves lie
    WeightScratch* scratch_ = nullptr;
    mutable at::Tensor kept_;
    mutable std::vector<std::int64_t> kept_versions_;
    /// The adapters' A in the compute dtype and their scaling * B in fp32, each B in columns of its own;
    /// undefined without adapters.
    mutable at::Tensor a_, columns_;
    mutable std::vector<std::int64_t> adapter_versions_;
};

}  // namespace qlora::nn
