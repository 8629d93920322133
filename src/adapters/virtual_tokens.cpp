#include "qlora/adapters/virtual_tokens.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <c10/util/Exception.h>

#include <numeric>

#include "qlora/core/error.h"
#include "qlora/kernels/philox.h"

namespace qlora::adapters {
namespace {

/// Of the draws from the vocabulary, one that no tensor of an encoder has.
constexpr std::uint64_t kVocabularyStream = std::uint64_t{2} << 32;

}  // namespace

std::vector<at::Tensor> EncodedPrefix::layers(const nn::ForwardContext& context) const {
    return encoder_->forward(context).view({tokens(), layers_, 2, -1}).permute({1, 2, 0, 3}).unbind(0);
}

KeyValueHeads key_value_heads(const models::DecoderSpec& decoder) {
    KeyValueHeads out;
    for (const models::spec::Layer& layer : decoder.layers) {
        for (const models::spec::Branch& branch : layer.branches) {
            const auto* attention = std::get_if<models::spec::Attention>(&branch.block);
            if (attention == nullptr) continue;
            const KeyValueHeads here{attention->kv_heads, attention->head_dim};
            if (out.heads == 0) out = here;
            if (here.heads != out.heads || here.head_dim != out.head_dim) {
                throw ConfigError(
                    "PREFIX_TUNING: the layers of this model differ in their key-value heads, which one "
                    "prefix cannot fit");
            }
        }
    }
    return out;
}

std::vector<std::int64_t> sampled_tokens(std::int64_t vocab_size, std::int64_t tokens, std::uint64_t seed) {
    kernels::PhiloxStream stream(seed, kVocabularyStream);
    std::vector<std::int64_t> out;
    for (std::int64_t i = 0; i < tokens; ++i)
        out.push_back(static_cast<std::int64_t>(stream.below(static_cast<std::uint64_t>(vocab_size))));
    return out;
}

std::vector<std::int64_t> repeated_tokens(std::span<const std::int64_t> ids, std::int64_t tokens) {
    std::vector<std::int64_t> out;
    for (std::size_t i = 0; i < static_cast<std::size_t>(tokens); ++i) out.push_back(ids[i % ids.size()]);
    return out;
}

at::Tensor rows_of_tokens(const models::CausalLM& model, std::span<const std::int64_t> ids) {
    return model.rows_of_tokens(at::tensor(at::ArrayRef<std::int64_t>(ids.data(), ids.size()), at::kLong));
}

at::Tensor keys_values_of_tokens(const models::CausalLM& model, std::span<const std::int64_t> ids) {
    TORCH_CHECK(model.hooks().tokens() == 0, "keys_values_of_tokens: something stands before the tokens");
    const at::AutoGradMode no_gradients(false);
    std::vector<std::int64_t> positions(ids.size());
    std::iota(positions.begin(), positions.end(), 0);
    const auto n = static_cast<std::int64_t>(ids.size());
    const std::vector<std::int64_t> offsets = {0, n}, rows = {n - 1};
    const models::TokenBatch batch =
        models::upload({.ids = ids, .positions = positions, .offsets = offsets, .rows = rows, .targets = {}},
                       model.device());
    models::KvCache cache(model.spec().layers.size());
    models::KvCache* caches[] = {&cache};
    model.forward(batch, {}, batch.rows, caches);
    std::vector<at::Tensor> layers;
    for (std::size_t i = 0; i < model.spec().layers.size(); ++i) {
        const ops::KeysValues held = cache.held(static_cast<std::int64_t>(i));
        layers.push_back(at::stack({held.keys.flatten(1), held.values.flatten(1)}, 1));
    }
    return at::stack(layers, 1).to(at::kFloat).flatten(1);
}

}  // namespace qlora::adapters
