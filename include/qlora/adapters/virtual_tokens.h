#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "qlora/adapters/prompt_encoder.h"
#include "qlora/models/causal_lm.h"

/// An encoder at work in a model, and what its rows may start from.
namespace qlora::adapters {

/// PROMPT_TUNING and P_TUNING: an encoder whose columns are the model's.
class EncodedPrompt final : public models::SoftPrompt {
  public:
    explicit EncodedPrompt(std::shared_ptr<PromptEncoder> encoder) : encoder_(std::move(encoder)) {}

    std::int64_t tokens() const override { return encoder_->shape().tokens; }
    at::Tensor rows(const nn::ForwardContext& context) const override { return encoder_->forward(context); }
    void to(at::Device device) override { encoder_->to(device); }

  private:
    std::shared_ptr<PromptEncoder> encoder_;
};

/// PREFIX_TUNING: an encoder whose columns are keys and values of each layer in turn.
class EncodedPrefix final : public models::KeyValuePrefix {
  public:
    EncodedPrefix(std::shared_ptr<PromptEncoder> encoder, std::int64_t layers)
        : encoder_(std::move(encoder)), layers_(layers) {}

    std::int64_t tokens() const override { return encoder_->shape().tokens; }
    std::vector<at::Tensor> layers(const nn::ForwardContext& context) const override;
    void to(at::Device device) override { encoder_->to(device); }

  private:
    std::shared_ptr<PromptEncoder> encoder_;
    std::int64_t layers_;
};

/// The key-value heads of a decoder; all of its layers have as many of one size, or this throws ConfigError.
struct KeyValueHeads {
    std::int64_t heads = 0, head_dim = 0;

    std::int64_t kv_size() const { return heads * head_dim; }
};
KeyValueHeads key_value_heads(const models::DecoderSpec& decoder);

/// SAMPLE_VOCAB: so many ids below `vocab_size`, some perhaps more than once.
std::vector<std::int64_t> sampled_tokens(std::int64_t vocab_size, std::int64_t tokens, std::uint64_t seed);
/// TEXT: the ids, at least one, repeated and cut to so many.
std::vector<std::int64_t> repeated_tokens(std::span<const std::int64_t> ids, std::int64_t tokens);
/// [n, hidden_size]: rows with which a prompt is these tokens.
at::Tensor rows_of_tokens(const models::CausalLM& model, std::span<const std::int64_t> ids);
/// [n, layers * 2 * kv_size]: rows with which a prefix is these tokens before each sequence. They run through
/// the model, which has no hooks yet.
at::Tensor keys_values_of_tokens(const models::CausalLM& model, std::span<const std::int64_t> ids);

}  // namespace qlora::adapters
