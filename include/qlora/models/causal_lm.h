#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "qlora/models/kv_cache.h"
#include "qlora/models/model_config.h"
#include "qlora/models/token_batch.h"
#include "qlora/nn/linear_group.h"
#include "qlora/nn/rms_norm.h"
#include "qlora/ops/attention.h"
#include "qlora/ops/cross_entropy.h"

namespace qlora::models {

/// One decoder layer; members are named like the checkpoint's tensors.
struct DecoderLayer {
    DecoderLayer(const ModelConfig& config, std::int64_t index);
    DecoderLayer(const DecoderLayer&) = delete;  // the groups point to the linears
    DecoderLayer& operator=(const DecoderLayer&) = delete;

    nn::RmsNorm input_layernorm;
    nn::Linear q_proj, k_proj, v_proj, o_proj;
    std::optional<nn::RmsNorm> q_norm, k_norm;
    nn::RmsNorm post_attention_layernorm;
    nn::Linear gate_proj, up_proj, down_proj;
    std::int64_t sliding_window;

    nn::LinearGroup qkv, output, gate_up, down;  ///< the linears as they run
};

/// A llama-like causal language model: embedding, decoder layers, final norm, output head. Made empty; filled
/// by `load_base`. The forward pass stops at the final hidden states, because the head is fused with the
/// loss.
class CausalLM {
  public:
    CausalLM(ModelConfig config, at::ScalarType compute_dtype);

    const ModelConfig& config() const { return config_; }
    at::ScalarType compute_dtype() const { return compute_dtype_; }

    /// Moves everything that runs; quantized weights stay packed.
    void to(at::Device device);
    at::Device device() const { return embedding_table_.device(); }

    /// Final normed hidden states [T, hidden], or of `rows` [R] int64 alone if defined: then the last layer
    /// too runs on them alone wherever a token does not need its neighbours. With `caches` (one a sequence)
    /// new tokens follow the cached ones. Batch, rows and targets lie on the model's device.
    at::Tensor forward(const TokenBatch& batch, const nn::ForwardContext& context,
                       const at::Tensor& rows = {}, std::span<KvCache* const> caches = {}) const;
    /// Sum of the cross-entropies of `targets` [R] given hidden rows [R, hidden]; fp32 scalar.
    at::Tensor loss_sum(const at::Tensor& hidden_rows, const at::Tensor& targets) const;
    /// Log probabilities of `targets` [R] and whether they are the most likely, without gradient; on the CPU.
    ops::TokenScores score(const at::Tensor& hidden_rows, const at::Tensor& targets) const;
    /// fp32 logits [R, vocabulary], without gradient.
    at::Tensor logits(const at::Tensor& hidden_rows) const;
    /// The output matrix as products see it: the head, or the embedding when tied.
    const ops::FrozenWeight& output_matrix() const {
        return config_.tie_word_embeddings ? embedding_ : head_;
    }

    // Parts, for the loader, the adapters and the merge.
    std::vector<nn::Linear*> linears();  ///< all but the output head, in checkpoint order
    std::vector<nn::RmsNorm*> norms();
    static constexpr const char* kEmbeddingPath = "model.embed_tokens";
    static constexpr const char* kHeadPath = "lm_head";
    static constexpr const char* kEmbeddingWeight = "model.embed_tokens.weight";
    static constexpr const char* kHeadWeight = "lm_head.weight";
    nn::Weight& embedding() { return embedding_; }
    const nn::Weight& embedding() const { return embedding_; }
    void set_embedding(nn::Weight weight, at::Tensor stored);
    /// The untied output head's weight; undefined when tied.
    nn::Weight& head() { return head_; }
    const nn::Weight& head() const { return head_; }

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
    at::Tensor layer_forward(std::size_t index, const at::Tensor& hidden, const at::Tensor& cos,
                             const at::Tensor& sin, const ops::SequenceOffsets& offsets,
                             const nn::ForwardContext& context, const at::Tensor& rows,
                             std::span<KvCache* const> caches) const;
    at::Tensor attend_to_caches(std::size_t index, const at::Tensor& qkv,
                                const std::vector<std::int64_t>& offsets, const ops::AttentionShape& shape,
                                std::span<KvCache* const> caches) const;

    ModelConfig config_;
    at::ScalarType compute_dtype_;
    at::Tensor inverse_frequency_;
    nn::Weight embedding_;
    at::Tensor embedding_table_;  ///< as on disk, for row look-ups
    nn::Weight head_;
    at::Tensor trained_embedding_, trained_head_;
    std::vector<std::unique_ptr<DecoderLayer>> layers_;
    bool keeps_dense_ = false;
    std::unique_ptr<nn::WeightScratch> scratch_;  ///< on a device, unless dense forms are kept
    nn::RmsNorm norm_;
};

}  // namespace qlora::models
