#include "rotary_embedding.h"

#include <ATen/ops/cat.h>

#include <algorithm>

#include "rope_frequencies.h"

namespace qlora::models {

RotaryEmbedding::RotaryEmbedding(const spec::Rope& rope, at::ScalarType dtype)
    : config_(rope.frequencies),
      pairs_(rope.pairs),
      rounding_(rope.rounding),
      dtype_(dtype),
      inverse_frequency_(inverse_frequencies(rope.frequencies, rope.dims)) {
    if (config_.type == RopeType::kLongrope) {
        long_inverse_frequency_ =
            inverse_frequencies(config_, rope.dims, config_.original_max_position_embeddings + 1);
    }
}

at::Tensor RotaryEmbedding::frequencies_of_tokens(const TokenBatch& batch, std::span<KvCache* const> caches,
                                                  std::int64_t before) const {
    if (!long_inverse_frequency_.defined()) return inverse_frequency_;
    std::vector<at::Tensor> rows;
    std::size_t long_sequences = 0;
    for (std::size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
        const std::int64_t n = batch.offsets[s + 1] - batch.offsets[s];
        const bool is_long = config_.turns_long(n + (caches.empty() ? before : caches[s]->length()));
        if (is_long) ++long_sequences;
        rows.push_back((is_long ? long_inverse_frequency_ : inverse_frequency_).expand({n, -1}));
    }
    if (long_sequences == 0) return inverse_frequency_;
    return long_sequences == rows.size() ? long_inverse_frequency_ : at::cat(rows);
}

ops::RopeTable RotaryEmbedding::table(const TokenBatch& batch, std::span<KvCache* const> caches,
                                      std::int64_t before) const {
    using Rounding = spec::Rope::Rounding;
    ops::RopeTable out =
        ops::rope_table(batch.positions, frequencies_of_tokens(batch, caches, before),
                        rounding_ == Rounding::kNothing ? at::kFloat : dtype_, config_.attention_factor);
    if (rounding_ == Rounding::kAngles) out = {.cos = out.cos.to(at::kFloat), .sin = out.sin.to(at::kFloat)};
    out.pairs = pairs_;
    return out;
}

void RotaryEmbedding::to(at::Device device) {
    inverse_frequency_ = inverse_frequency_.to(device);
    if (long_inverse_frequency_.defined()) long_inverse_frequency_ = long_inverse_frequency_.to(device);
}

}  // namespace qlora::models
