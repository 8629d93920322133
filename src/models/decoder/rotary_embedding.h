#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "qlora/models/decoder_spec.h"
#include "qlora/models/kv_cache.h"
#include "qlora/models/token_batch.h"
#include "qlora/ops/rope.h"

namespace qlora::models {

/// A rotary embedding that layers share, as it runs.
class RotaryEmbedding {
  public:
    RotaryEmbedding(const spec::Rope& rope, at::ScalarType dtype);

    /// For the tokens of a pass; `caches` (one a sequence, or none) say how many come before them, or without
    /// any `before` does, for each sequence. longrope's
    /// factors are chosen for each sequence by its length, so that a row gives the same alone and packed with
    /// others (transformers lets the longest row of a batch choose for all).
    ops::RopeTable table(const TokenBatch& batch, std::span<KvCache* const> caches,
                         std::int64_t before = 0) const;
    void to(at::Device device);

  private:
    at::Tensor frequencies_of_tokens(const TokenBatch& batch, std::span<KvCache* const> caches,
                                     std::int64_t before) const;

    RopeConfig config_;
    bool pairs_;
    spec::Rope::Rounding rounding_;
    at::ScalarType dtype_;
    at::Tensor inverse_frequency_;       ///< fp32 [dims / 2]
    at::Tensor long_inverse_frequency_;  ///< the same of longrope's long sequences
};

}  // namespace qlora::models
