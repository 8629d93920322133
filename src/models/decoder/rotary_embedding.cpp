#include "rotary_embedding.h"

#include "rope_frequencies.h"

namespace qlora::models {

RotaryEmbedding::RotaryEmbedding(const spec::Rope& rope, at::ScalarType dtype)
    : dtype_(dtype), inverse_frequency_(inverse_frequencies(rope.frequencies, rope.dims)) {}

ops::RopeTable RotaryEmbedding::table(const TokenBatch& batch, std::span<KvCache* const> /*caches*/) const {
    return ops::rope_table(batch.positions, inverse_frequency_, dtype_);
}

void RotaryEmbedding::to(at::Device device) {
    inverse_frequency_ = inverse_frequency_.to(device);
}

}  // namespace qlora::models
