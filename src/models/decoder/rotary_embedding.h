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

    /// For the tokens of a pass; `caches` (one a sequence, or none) say what comes before them.
    ops::RopeTable table(const TokenBatch& batch, std::span<KvCache* const> caches) const;
    void to(at::Device device);

  private:
    at::ScalarType dtype_;
    at::Tensor inverse_frequency_;  ///< fp32 [dims / 2]
};

}  // namespace qlora::models
