#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "qlora/adapters/lora_config.h"
#include "qlora/nn/linear_adapter.h"
#include "qlora/ops/embedding_low_rank.h"

/// LoRA on an embedding [V, d], as peft's lora.Embedding: A [r, V] and B [d, r], no dropout.
namespace qlora::adapters {

// Names of its tensors, as in PEFT's files.
inline constexpr const char* kEmbeddingA = "lora_embedding_A";
inline constexpr const char* kEmbeddingB = "lora_embedding_B";

/// Trainable, both zeros.
ops::EmbeddingLowRank make_embedding_lora(std::int64_t vocabulary, std::int64_t hidden, std::int64_t r,
                                          double scaling);

/// Begins with A zeros and B normal whatever `kind` says, but for kRandom: then both are normal. Where a tied
/// head shares them, PEFT draws them as the head's, whose A is B^T and whose B is A^T.
void initialize_embedding_lora(ops::EmbeddingLowRank& update, InitLoraWeights kind, bool is_shared,
                               std::uint64_t seed, std::uint32_t site);

/// The adapter of a tied head that shares the embedding's matrices.
class SharedHeadLora final : public nn::LinearAdapter {
  public:
    SharedHeadLora(ops::EmbeddingLowRank of_embedding, double scaling, double dropout, std::uint32_t site)
        : shared_(std::move(of_embedding)), scaling_(scaling), dropout_(dropout), site_(site) {}

    ops::LinearUpdate update(const nn::ForwardContext& context) const override;
    bool folds() const override { return false; }
    void add_delta(at::Tensor& rows, std::int64_t first) const override;
    std::vector<at::Tensor> matrices() const override { return {shared_.b, shared_.a}; }
    /// None of its own.
    std::vector<std::pair<std::string, at::Tensor>> parameters() const override { return {}; }

  private:
    ops::EmbeddingLowRank shared_;
    double scaling_, dropout_;
    std::uint32_t site_;
};

}  // namespace qlora::adapters
