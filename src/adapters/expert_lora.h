#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "qlora/adapters/lora_config.h"
#include "qlora/nn/linear_adapter.h"

namespace qlora::adapters {

/// Low-rank adapters of one matrix of all experts, in PEFT's layout: A [experts * r, in], where the ranks of
/// an expert stand together, and B [out, r * experts], where the experts of a rank do.
class ExpertLora {
  public:
    ExpertLora(std::int64_t experts, std::int64_t in_features, std::int64_t out_features, std::int64_t r,
               double scaling);

    /// As LoraLayer::initialize, but that PEFT draws B for all experts as one layer.
    void initialize(InitLoraWeights kind, std::uint64_t seed, std::uint32_t site);

    const at::Tensor& a() const { return a_; }
    const at::Tensor& b() const { return b_; }
    double scaling() const { return scaling_; }
    at::Tensor a_of(std::int64_t expert) const;  ///< [r, in]
    at::Tensor b_of(std::int64_t expert) const;  ///< [out, r], a copy

  private:
    std::int64_t experts_;
    at::Tensor a_, b_;
    double scaling_;
};

/// [r, in] and [out, r] of one expert in tensors of the layout above.
at::Tensor expert_a(const at::Tensor& a, std::int64_t experts, std::int64_t expert);
at::Tensor expert_b(const at::Tensor& b, std::int64_t experts, std::int64_t expert);

/// What ExpertLora adds to one linear: some rows of one expert's matrix. Its parameters are those of all.
class ExpertLoraPart final : public nn::LinearAdapter {
  public:
    ExpertLoraPart(std::shared_ptr<const ExpertLora> all, std::int64_t expert, std::int64_t first_row,
                   std::int64_t rows)
        : all_(std::move(all)), expert_(expert), first_row_(first_row), rows_(rows) {}

    ops::LinearUpdate update(const nn::ForwardContext& context) const override;
    bool folds() const override { return true; }
    void add_delta(at::Tensor& rows, std::int64_t first) const override;
    std::vector<at::Tensor> matrices() const override { return {all_->a(), all_->b()}; }
    std::vector<std::pair<std::string, at::Tensor>> parameters() const override;

  private:
    ops::LowRank low_rank() const;

    std::shared_ptr<const ExpertLora> all_;
    std::int64_t expert_, first_row_, rows_;
};

}  // namespace qlora::adapters
