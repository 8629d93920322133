#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "qlora/models/decoder_spec.h"
#include "qlora/models/hooks.h"
#include "qlora/models/kv_cache.h"
#include "qlora/models/stack.h"
#include "qlora/models/token_batch.h"
#include "qlora/nn/linear_adapter.h"
#include "qlora/ops/cross_entropy.h"
#include "qlora/ops/embedding_low_rank.h"

namespace qlora::models {

/// A causal language model: embedding, decoder layers, final norm, output head. Made empty; filled by
/// `load_base`. The forward pass stops at the final hidden states, because the head is fused with the
/// loss.
class CausalLM {
  public:
    CausalLM(DecoderSpec decoder, at::ScalarType compute_dtype);

    const DecoderSpec& spec() const { return spec_; }
    at::ScalarType compute_dtype() const { return compute_dtype_; }

    /// Moves everything that runs; quantized weights stay packed.
    void to(at::Device device);
    at::Device device() const { return embedding_table_.device(); }

    /// Final normed hidden states [T, hidden], or of `rows` [R] int64 alone if defined: then the last layer
    /// too runs on them alone wherever a token does not need its neighbours. With `caches` (one a sequence)
    /// new tokens follow the cached ones, and the caches advance. Batch and rows are those of the text alone,
    /// whatever the hooks put before it; they lie on the model's device.
    at::Tensor forward(const TokenBatch& batch, const nn::ForwardContext& context,
                       const at::Tensor& rows = {}, std::span<KvCache* const> caches = {}) const;
    /// Sum of the cross-entropies of `targets` [R] given hidden rows [R, hidden]; fp32 scalar. `context`: for
    /// an adapter of the head.
    at::Tensor loss_sum(const at::Tensor& hidden_rows, const at::Tensor& targets,
                        const nn::ForwardContext& context = {}) const;
    /// Log probabilities of `targets` [R] and whether they are the most likely, without gradient; on the CPU.
    ops::TokenScores score(const at::Tensor& hidden_rows, const at::Tensor& targets) const;
    /// fp32 logits [R, vocabulary], without gradient.
    at::Tensor logits(const at::Tensor& hidden_rows) const;
    /// The output matrix as products see it: the head, or the embedding when tied.
    const ops::FrozenWeight& output_matrix() const { return spec_.tie_word_embeddings ? embedding_ : head_; }

    // Parts, for the loader, the adapters and the merge.
    std::vector<nn::Linear*> linears() { return stack_.linears(); }  ///< all but the output head
    std::vector<nn::Norm*> norms() { return stack_.norms(); }
    nn::Weight& embedding() { return embedding_; }
    const nn::Weight& embedding() const { return embedding_; }
    void set_embedding(nn::Weight weight, at::Tensor stored);
    /// Learned positions [max_position_embeddings, hidden], added to the embedding; as on disk.
    void set_positions(at::Tensor stored) { positions_ = std::move(stored); }
    /// The output head's bias [vocabulary], as on disk.
    void set_head_bias(at::Tensor stored) { head_bias_ = std::move(stored); }
    const at::Tensor& positions() const { return positions_; }
    const at::Tensor& head_bias() const { return head_bias_; }
    /// The untied output head's weight; undefined when tied.
    nn::Weight& head() { return head_; }
    const nn::Weight& head() const { return head_; }

    void set_hooks(Hooks hooks);
    const Hooks& hooks() const { return hooks_; }
    /// fp32 [n, hidden_size]: what a SoftPrompt gives to be these tokens (int64 [n]).
    at::Tensor rows_of_tokens(const at::Tensor& ids) const;

    /// Low-rank adapters of the head and of the embedding, with or without a tie between their weights.
    void set_head_adapter(std::unique_ptr<nn::LinearAdapter> adapter) { head_adapter_ = std::move(adapter); }
    void set_embedding_update(ops::EmbeddingLowRank update) { embedding_update_ = std::move(update); }

    /// Whole-module training of the embedding or the head (a tied head trains a copy).
    void train_embedding();
    void train_head();
    const at::Tensor& trained_embedding() const { return trained_embedding_; }
    const at::Tensor& trained_head() const { return trained_head_; }

    /// Keeps fp32 forms of all frozen matrices, on a device forms in the compute dtype: same results, faster.
    /// On a device without them the linears share two buffers; there it is called once adapters are set.
    void keep_dense(bool keep);
    /// Whether a pass over more than ops::kFewRows tokens makes weights dense that a pass over fewer
    /// multiplies as they are stored: generation then takes no more sequences at once.
    bool few_rows_pay() const;
    /// Bytes that `keep_dense(true)` would take.
    std::int64_t dense_bytes() const;
    std::int64_t parameter_count() const;

  private:
    ops::LogitRule logit_rule(const nn::ForwardContext& context = {}) const;
    const at::Tensor& embedding_rows() const;
    /// Of a batch, in the compute dtype and scaled; of virtual tokens `prompt`.
    at::Tensor embedded(const at::Tensor& ids, const at::Tensor& prompt) const;
    /// Of a batch that holds the virtual tokens too, which are `prompt` if defined.
    at::Tensor run(const TokenBatch& batch, const nn::ForwardContext& context, const at::Tensor& rows,
                   std::span<KvCache* const> caches, const at::Tensor& prompt,
                   std::span<const at::Tensor> prefix) const;
    at::Tensor run_with_hooks(const TokenBatch& text, const nn::ForwardContext& context,
                              const at::Tensor& rows, std::span<KvCache* const> caches) const;

    DecoderSpec spec_;
    at::ScalarType compute_dtype_;
    nn::Weight embedding_;
    at::Tensor embedding_table_;  ///< as on disk, for row look-ups
    at::Tensor positions_;        ///< undefined: none are learned
    nn::Weight head_;
    at::Tensor head_bias_;  ///< undefined: none
    at::Tensor trained_embedding_, trained_head_;
    std::optional<ops::EmbeddingLowRank> embedding_update_;
    std::unique_ptr<nn::LinearAdapter> head_adapter_;
    Stack stack_;
    Hooks hooks_;
    bool keeps_dense_ = false;
    std::unique_ptr<nn::WeightScratch> scratch_;  ///< on a device, unless dense forms are kept
};

}  // namespace qlora::models
