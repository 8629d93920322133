#include "expert_lora.h"

#include <ATen/ops/zeros.h>

#include "qlora/adapters/lora.h"
#include "qlora/ops/gemm.h"

namespace qlora::adapters {

ExpertLora::ExpertLora(std::int64_t experts, std::int64_t in_features, std::int64_t out_features,
                       std::int64_t r, double scaling)
    : experts_(experts),
      a_(at::zeros({experts * r, in_features}, at::kFloat).requires_grad_()),
      b_(at::zeros({out_features, r * experts}, at::kFloat).requires_grad_()),
      scaling_(scaling) {}

void ExpertLora::initialize(InitLoraWeights kind, std::uint64_t seed, std::uint32_t site) {
    initialize_lora(a_, b_, a_.size(0) / experts_, kind, seed, site);
}

at::Tensor ExpertLora::a_of(std::int64_t expert) const {
    return expert_a(a_.detach(), experts_, expert);
}

at::Tensor ExpertLora::b_of(std::int64_t expert) const {
    return expert_b(b_.detach(), experts_, expert).contiguous();
}

at::Tensor expert_a(const at::Tensor& a, std::int64_t experts, std::int64_t expert) {
    const std::int64_t r = a.size(0) / experts;
    return a.narrow(0, expert * r, r);
}

at::Tensor expert_b(const at::Tensor& b, std::int64_t experts, std::int64_t expert) {
    return b.view({b.size(0), b.size(1) / experts, experts}).select(2, expert);
}

ops::LinearUpdate ExpertLoraPart::update(const nn::ForwardContext& /*context*/) const {
    return {.low_rank = low_rank()};
}

ops::LowRank ExpertLoraPart::low_rank() const {
    return {.a = all_->a_of(expert_),
            .b = all_->b_of(expert_).narrow(0, first_row_, rows_),
            .scaling = all_->scaling(),
            .dropout = {}};
}

void ExpertLoraPart::add_delta(at::Tensor& rows, std::int64_t first) const {
    const ops::LowRank part = low_rank();
    ops::product(part.b.narrow(0, first, rows.size(0)),
                 {.b = part.a, .out = rows, .start = rows, .alpha = part.scaling});
}

std::vector<std::pair<std::string, at::Tensor>> ExpertLoraPart::parameters() const {
    return {{LoraLayer::kA, all_->a()}, {LoraLayer::kB, all_->b()}};
}

}  // namespace qlora::adapters
