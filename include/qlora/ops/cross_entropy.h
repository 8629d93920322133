#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <optional>

#include "qlora/kernels/layer_kinds.h"
#include "qlora/ops/frozen_weight.h"
#include "qlora/ops/projection.h"

namespace qlora::ops {

/// Rows of logits held at once by the functions below, which bounds their memory to rows * vocabulary * 4
/// bytes: the head is packed once for all of them, so they are many where that costs less than kLogitsBytes.
inline constexpr std::int64_t kMostLogitsRows = 512, kLeastLogitsRows = 256, kLogitsBytes = 128 << 20;
constexpr std::int64_t logits_rows(std::int64_t vocabulary) {
    return std::clamp(kLogitsBytes / (4 * std::max<std::int64_t>(vocabulary, 1)), kLeastLogitsRows,
                      kMostLogitsRows);
}
/// The same where kernels of a device run, in hidden's dtype: enough for products near a GPU's peak.
inline constexpr std::int64_t kDeviceLogitsRows = 1024;
/// fp32 bytes of the head's rows that a product takes at once: a head that is not kept in fp32 is converted
/// panel by panel. The same with a kept one, so that both give the same bits.
inline constexpr std::int64_t kHeadPanelBytes = 64 << 20;

/// What a logit is of a row x of the hidden states: softcap * tanh(scale * (x W^T + bias) / softcap), or
/// scale * (x W^T + bias) where softcap is 0. In 16 bits the product with its bias and each operation after
/// it are rounded, as in transformers.
struct LogitRule {
    double scale = 1.0, softcap = 0.0;
    at::Tensor bias = {};  ///< [V], frozen; undefined: none
    /// An adapter of the head: what LowRank says is added to the product with its bias, before anything else.
    std::optional<LowRank> low_rank = {};

    kernels::LogitCurve curve() const {
        return {.scale = static_cast<float>(scale), .softcap = static_cast<float>(softcap)};
    }
};

/// Sum over rows of -log softmax(logits)[target]: output head and cross-entropy in one node that never holds
/// all logits. hidden [R, d] fp32 or bf16 (logits are rounded to its dtype, softmax in fp32), targets
/// [R] int64. The gradient of hidden is made in the forward pass, chunk by chunk, and so are those of the
/// rule's low rank, which trains. Result: fp32 scalar.
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,
                                const LogitRule& rule = {});

/// The same with a trainable fp32 head [V, d], which gets its gradient too.
at::Tensor trainable_linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& head,
                                          const at::Tensor& targets, const LogitRule& rule = {});

/// A head that trains, as the products see it.
class TrainedHead final : public FrozenWeight {
  public:
    explicit TrainedHead(const at::Tensor& value) : value_(value.detach()) {}
    std::int64_t out_features() const override { return value_.size(0); }
    std::int64_t in_features() const override { return value_.size(1); }
    at::Tensor dense_rows(std::int64_t first, std::int64_t count) const override {
        return value_.narrow(0, first, count);
    }

  private:
    at::Tensor value_;
};

/// fp32 logits [R, V], rounded to hidden's dtype; no gradient.
at::Tensor head_logits(const at::Tensor& hidden, const FrozenWeight& head, const LogitRule& rule = {});

/// Without gradients: log probability of each target [R] fp32, and whether it is the most likely token [R]
/// bool.
struct TokenScores {
    at::Tensor logprobs;
    at::Tensor correct;
};
TokenScores score_tokens(const at::Tensor& hidden, const FrozenWeight& head, const at::Tensor& targets,
                         const LogitRule& rule = {});

}  // namespace qlora::ops
