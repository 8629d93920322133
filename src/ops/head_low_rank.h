#pragma once

#include <optional>

#include "cross_entropy_backends.h"

namespace qlora::ops {

/// A low-rank part of the output head beside its product, for all rows of a pass: chunk by chunk it is added
/// to the logits and takes their gradients. On the CPU its products are fp32, as peft's; on a device they are
/// in hidden's dtype, as those of other adapters.
class HeadLowRank {
  public:
    /// hidden [R, d]; `adapter` must live as long.
    HeadLowRank(const LowRank& adapter, const at::Tensor& hidden);

    /// logits [n, V] of rows begin .. begin + n - 1, the head's product with its bias, which are rounded to
    /// hidden's dtype first.
    void add_to(const at::Tensor& logits, std::int64_t begin) const;
    /// `gradient` [n, V]: that of the same logits before LogitRule's scale and softcap.
    void take_gradient(const at::Tensor& gradient, std::int64_t begin);
    /// After all chunks: `of_low_rank`, and its share of `gradient_hidden` if that is defined.
    void finish(HeadLoss& loss);

  private:
    void begin_gradients();

    const LowRank& adapter_;
    bool on_device_;
    at::ScalarType dtype_;  ///< of hidden
    at::Tensor a_, b_;      ///< as products read them
    at::Tensor dropped_;    ///< dropout(hidden)
    at::Tensor inner_;      ///< dropped A^T [R, r]
    // fp32:
    at::Tensor d_inner_;  ///< [R, r]
    at::Tensor d_b_;      ///< [V, r]
    at::Tensor d_bias_;   ///< [V], where there is one
};

/// That of a rule, if it has one.
std::optional<HeadLowRank> low_rank_of(const LogitRule& rule, const at::Tensor& hidden);

}  // namespace qlora::ops
