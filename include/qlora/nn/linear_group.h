#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "qlora/nn/linear.h"
#include "qlora/nn/weight_scratch.h"
#include "qlora/ops/projection.h"

namespace qlora::nn {

/// Linears that share an input and run as one product: q/k/v, gate/up, or one alone. In fp32 and without
/// adapter dropout their effective weights W + scaling * B A are stacked in one matrix, made anew when an
/// adapter has changed. On a device the operands of one product for weights and adapters are made instead, in
/// every compute dtype. Kept or not, a matrix holds the same bits.
class LinearGroup final : public ScratchSource {
  public:
    /// The linears must outlive the group.
    explicit LinearGroup(std::vector<Linear*> linears);

    ops::Projections projections(const ForwardContext& context) const;

    /// Whether the stacked matrix stays in memory between passes: 4 bytes a weight, on a device as many as
    /// the compute dtype has.
    void keep_dense(bool keep);
    /// On a device, where no weight is packed or trained: moves the weights into one matrix with room for the
    /// adapters' columns, which every product then reads in place, and returns true; it takes no more memory
    /// than they did. Called once adapters are set; a later call with other ranks moves them again.
    bool move_weights_together();
    /// On a device, where a matrix that is not kept is written; outlives the group's use.
    void use_scratch(WeightScratch* scratch) { scratch_ = scratch; }

    std::vector<std::int64_t> scratch_shape() const override;
    void prepare_scratch() const override { update_adapters(); }
    std::vector<std::int64_t> scratch_version() const override { return adapter_versions_; }
    void write_scratch(at::Tensor& out) const override;
    std::vector<at::Tensor> scratch_inputs() const override;

  private:
    std::int64_t out_features() const;
    /// Columns of a device's matrix behind those of the weights.
    std::int64_t appended_columns() const;
    bool trains_a_weight() const;
    bool folds() const;
    at::Tensor stacked() const;
    at::Tensor make_stacked() const;
    bool runs_on_device() const;
    ops::DeviceOperands device_operands() const;
    /// Brings `a_` and `columns_` up to date.
    void update_adapters() const;
    /// Changes of the adapters' values, as counted by the tensors themselves.
    std::vector<std::int64_t> versions() const;

    std::vector<Linear*> linears_;
    bool keeps_ = false;
    bool holds_weights_ = false;  ///< `kept_` is where the weights themselves lie
    WeightScratch* scratch_ = nullptr;
    mutable at::Tensor kept_;
    mutable std::vector<std::int64_t> kept_versions_;
    /// On a device: the adapters' A in the compute dtype and their scaling * B in fp32, each B in columns of
    /// its own; undefined without adapters.
    mutable at::Tensor a_, columns_;
    mutable std::vector<std::int64_t> adapter_versions_;
};

}  // namespace qlora::nn
