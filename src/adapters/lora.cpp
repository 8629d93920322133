#include "qlora/adapters/lora.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <cmath>

#include "qlora/kernels/philox.h"
#include "qlora/ops/gemm.h"

namespace qlora::adapters {
namespace {

template <class Draw>
void fill(at::Tensor& tensor, Draw&& draw) {
    float* data = tensor.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < tensor.numel(); ++i) data[i] = draw();
    tensor.unsafeGetTensorImpl()->bump_version();
}

}  // namespace

void initialize_lora(at::Tensor& a, at::Tensor& b, std::int64_t rank, InitLoraWeights kind,
                     std::uint64_t seed, std::uint32_t site) {
    const at::AutoGradMode no_gradients(false);
    kernels::PhiloxStream for_a(seed, 2 * static_cast<std::uint64_t>(site));
    kernels::PhiloxStream for_b(seed, 2 * static_cast<std::uint64_t>(site) + 1);
    const auto uniform = [](kernels::PhiloxStream& stream, float bound) {
        return (2.0F * stream.uniform() - 1.0F) * bound;
    };
    // kaiming_uniform_ with a = sqrt(5) is uniform in +-1/sqrt(fan_in).
    const auto bound_of = [](const at::Tensor& matrix) {
        return 1.0F / std::sqrt(static_cast<float>(matrix.size(1)));
    };
    if (kind == InitLoraWeights::kGaussian) {
        fill(a, [&] { return for_a.normal() / static_cast<float>(rank); });
    } else {
        fill(a, [&, bound = bound_of(a)] { return uniform(for_a, bound); });
    }
    if (kind == InitLoraWeights::kRandom) {
        fill(b, [&, bound = bound_of(b)] { return uniform(for_b, bound); });
    } else {
        b.zero_();
    }
}

LoraLayer::LoraLayer(std::int64_t in_features, std::int64_t out_features, std::int64_t r, double scaling,
                     double dropout, std::uint32_t site, const LoraExtras& extras)
    : a_(at::zeros({r, in_features}, at::kFloat).requires_grad_()),
      b_(at::zeros({out_features, r}, at::kFloat).requires_grad_()),
      scaling_(scaling),
      dropout_(dropout),
      site_(site) {
    TORCH_CHECK(!extras.bias || extras.dora_base == nullptr, "DoRA takes no bias of the adapter");
    if (extras.bias) bias_ = at::zeros({out_features}, at::kFloat).requires_grad_();
    if (extras.dora_base == nullptr) return;
    norms_.emplace(*extras.dora_base);
    magnitude_ = at::ones({out_features}, at::kFloat).requires_grad_();
}

void LoraLayer::initialize(InitLoraWeights kind, std::uint64_t seed) {
    initialize_lora(a_, b_, a_.size(0), kind, seed, site_);
    if (!norms_) return;
    const at::AutoGradMode no_gradients(false);
    magnitude_.copy_(norms_->of(a_, b_, scaling_));
}

ops::LinearUpdate LoraLayer::update(const nn::ForwardContext& context) const {
    const ops::DropoutSite dropout{.p = context.training ? dropout_ : 0.0,
                                   .seed = context.seed,
                                   .step = context.micro_step,
                                   .site = site_};
    ops::LinearUpdate out{
        .low_rank = ops::LowRank{.a = a_, .b = b_, .bias = bias_, .scaling = scaling_, .dropout = dropout}};
    if (norms_)
        out.output_scale = ops::OutputScale{.value = magnitude_, .norm = norms_->of(a_, b_, scaling_)};
    return out;
}

void LoraLayer::add_delta(at::Tensor& rows, std::int64_t first) const {
    ops::product(b_.detach().narrow(0, first, rows.size(0)),
                 {.b = a_.detach(), .out = rows, .start = rows, .alpha = scaling_});
}

at::Tensor LoraLayer::delta(const at::Tensor& b, const at::Tensor& a, double scaling) {
    return at::mm(b, a).mul_(scaling);
}

std::vector<std::pair<std::string, at::Tensor>> LoraLayer::parameters() const {
    std::vector<std::pair<std::string, at::Tensor>> out = {{kA, a_}, {kB, b_}};
    if (bias_.defined()) out.emplace_back(kBias, bias_);
    if (magnitude_.defined()) out.emplace_back(kMagnitude, magnitude_);
    return out;
}

}  // namespace qlora::adapters
