#include "head_low_rank.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "qlora/ops/device.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops {

HeadLowRank::HeadLowRank(const LowRank& adapter, const at::Tensor& hidden)
    : adapter_(adapter), on_device_(device_kernels(hidden) != nullptr), dtype_(hidden.scalar_type()) {
    const LibTorchSums sums(dtype_ != at::kFloat);
    const at::ScalarType type = on_device_ ? dtype_ : at::kFloat;
    a_ = adapter.a.detach().to(type);
    b_ = adapter.b.detach().to(type);
    dropped_ = apply_dropout(hidden.detach().to(type), adapter.dropout);
    inner_ = on_device_ ? at::mm(dropped_, a_.t()) : product(dropped_, a_.t());
}

void HeadLowRank::add_to(const at::Tensor& logits, std::int64_t begin) const {
    const LibTorchSums sums(dtype_ != at::kFloat);
    const at::Tensor inner = inner_.narrow(0, begin, logits.size(0));
    if (on_device_) {
        at::Tensor sum = logits;
        at::addmm_out(sum, logits, inner, b_.t(), 1.0, adapter_.scaling);
        if (adapter_.bias.defined()) sum.add_((adapter_.bias.detach() * adapter_.scaling).to(dtype_));
        return;
    }
    if (dtype_ != at::kFloat) logits.copy_(logits.to(dtype_));
    product(inner, {.b = b_.t(), .out = logits, .start = logits, .alpha = adapter_.scaling});
    if (adapter_.bias.defined()) logits.add_(adapter_.bias.detach(), adapter_.scaling);
}

void HeadLowRank::begin_gradients() {
    if (d_b_.defined()) return;
    const at::TensorOptions options = inner_.options().dtype(at::kFloat);
    d_inner_ = at::zeros(inner_.sizes(), options);
    d_b_ = at::zeros(b_.sizes(), options);
    if (adapter_.bias.defined()) d_bias_ = at::zeros(adapter_.bias.sizes(), options);
}

void HeadLowRank::take_gradient(const at::Tensor& gradient, std::int64_t begin) {
    const LibTorchSums sums(dtype_ != at::kFloat);
    begin_gradients();
    const at::Tensor inner = inner_.narrow(0, begin, gradient.size(0));
    const at::Tensor d_inner = d_inner_.narrow(0, begin, gradient.size(0));
    if (on_device_) {
        d_inner.copy_(mm_to_fp32(gradient, b_)).mul_(adapter_.scaling);
        d_b_.add_(mm_to_fp32(gradient.t(), inner), adapter_.scaling);
    } else {
        product(gradient, {.b = b_, .out = d_inner, .start = {}, .alpha = adapter_.scaling});
        product(gradient.t(), {.b = inner, .out = d_b_, .start = d_b_, .alpha = adapter_.scaling});
    }
    if (d_bias_.defined())
        d_bias_.add_(gradient.sum(at::IntArrayRef{0}, false, at::kFloat), adapter_.scaling);
}

void HeadLowRank::finish(HeadLoss& loss) {
    const LibTorchSums sums(dtype_ != at::kFloat);
    begin_gradients();
    const auto multiplied = [this](const at::Tensor& a, const at::Tensor& b) {
        return on_device_ ? at::mm(a, b) : product(a, b);
    };
    loss.of_low_rank = {multiplied(d_inner_.t(), fp32(dropped_)), d_b_};
    if (d_bias_.defined()) loss.of_low_rank.push_back(d_bias_);
    if (!loss.gradient_hidden.defined()) return;
    const at::Tensor through = apply_dropout(multiplied(d_inner_, adapter_.a.detach()), adapter_.dropout);
    loss.gradient_hidden.add_(through.to(dtype_));
}

std::optional<HeadLowRank> low_rank_of(const LogitRule& rule, const at::Tensor& hidden) {
    std::optional<HeadLowRank> out;
    if (rule.low_rank) out.emplace(*rule.low_rank, hidden);
    return out;
}

}  // namespace qlora::ops
