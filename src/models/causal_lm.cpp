#include "qlora/models/causal_lm.h"

#include <ATen/DeviceAccelerator.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/scalar_tensor.h>

#include <algorithm>

#include "qlora/ops/device.h"
#include "qlora/ops/embedding.h"

namespace qlora::models {
namespace {

/// What the embedding's rows are multiplied with.
double embedding_scale(const DecoderSpec& decoder, at::ScalarType compute_dtype) {
    if (!decoder.rounds_embedding_scale) return decoder.embedding_scale;
    return at::scalar_tensor(decoder.embedding_scale, compute_dtype).item<double>();
}

/// What stands beside them is multiplied with this.
double further_scale(const DecoderSpec& decoder) {
    return decoder.rounds_embedding_scale ? 1.0 : decoder.embedding_scale;
}

/// A cache that is empty gets the prefix, as if the tokens had passed.
void fill(KvCache& cache, std::span<const at::Tensor> prefix, const DecoderSpec& decoder,
          at::ScalarType dtype) {
    std::int64_t tokens = 0;
    for (std::size_t i = 0; i < prefix.size(); ++i) {
        for (const spec::Branch& branch : decoder.layers[i].branches) {
            const auto* attention = std::get_if<spec::Attention>(&branch.block);
            if (attention == nullptr) continue;
            const at::Tensor heads =
                prefix[i].detach().to(dtype).unflatten(2, {attention->kv_heads, attention->head_dim});
            cache.append(static_cast<std::int64_t>(i), heads[0], heads[1], 0);
        }
        tokens = prefix[i].size(1);
    }
    cache.advance(tokens);
}

}  // namespace

CausalLM::CausalLM(DecoderSpec decoder, at::ScalarType compute_dtype)
    : spec_(std::move(decoder)), compute_dtype_(compute_dtype), stack_(spec_, compute_dtype) {}

at::Tensor CausalLM::forward(const TokenBatch& batch, const nn::ForwardContext& context,
                             const at::Tensor& rows, std::span<KvCache* const> caches) const {
    if (hooks_.tokens() > 0) return run_with_hooks(batch, context, rows, caches);
    return run(batch, context, rows, caches, {}, {});
}

const at::Tensor& CausalLM::embedding_rows() const {
    return trained_embedding_.defined() ? trained_embedding_ : embedding_table_;
}

at::Tensor CausalLM::run_with_hooks(const TokenBatch& text, const nn::ForwardContext& context,
                                    const at::Tensor& rows, std::span<KvCache* const> caches) const {
    TokenBatch batch = text;
    batch.positions = text.positions + hooks_.tokens();
    const std::size_t sequences = text.offsets.size() - 1;
    std::vector<std::int64_t> virtual_tokens;
    std::vector<KvCache*> empty;
    for (std::size_t s = 0; s < sequences; ++s) {
        const bool begins = caches.empty() || caches[s]->length() == 0;
        virtual_tokens.push_back(begins && hooks_.prompt ? hooks_.prompt->tokens() : 0);
        if (begins && !caches.empty()) empty.push_back(caches[s]);
    }
    std::vector<at::Tensor> prefix;
    if (hooks_.prefix && (caches.empty() || !empty.empty())) prefix = hooks_.prefix->layers(context);
    for (KvCache* cache : empty) fill(*cache, prefix, spec_, compute_dtype_);
    if (!caches.empty()) prefix.clear();
    if (std::all_of(virtual_tokens.begin(), virtual_tokens.end(), [](std::int64_t n) { return n == 0; }))
        return run(batch, context, rows, caches, {}, prefix);
    const Expanded expanded = with_virtual_tokens(batch, virtual_tokens, embedding_rows().size(0),
                                                  hooks_.prefix ? hooks_.prefix->tokens() : 0);
    const at::Tensor wanted = rows.defined() ? expanded.places.index_select(0, rows) : expanded.places;
    return run(expanded.batch, context, wanted, caches, hooks_.prompt->rows(context), prefix);
}

at::Tensor CausalLM::embedded(const at::Tensor& ids, const at::Tensor& prompt) const {
    const double scale = embedding_scale(spec_, compute_dtype_);
    const std::int64_t padding_index = spec_.pad_token_id.value_or(-1);
    // A scale that is no part of the table multiplies what an adapter adds to it too.
    const bool scales_later = embedding_update_ && !spec_.rounds_embedding_scale && scale != 1.0;
    const at::Tensor rows =
        ops::embedding(embedding_rows(), ids, compute_dtype_, padding_index, scales_later ? 1.0 : scale,
                       {.rows = prompt, .scale = further_scale(spec_)});
    if (!embedding_update_) return rows;
    const at::Tensor sum =
        ops::add_embedding_low_rank(rows, ids, *embedding_update_, padding_index, scales_later ? 1.0 : scale);
    return scales_later ? sum * scale : sum;
}

at::Tensor CausalLM::run(const TokenBatch& batch, const nn::ForwardContext& context, const at::Tensor& rows,
                         std::span<KvCache* const> caches, const at::Tensor& prompt,
                         std::span<const at::Tensor> prefix) const {
    at::Tensor hidden = embedded(batch.ids, prompt);
    if (positions_.defined()) {
        hidden = hidden + ops::embedding(positions_, batch.positions, compute_dtype_, -1);
    }
    hidden = stack_.forward(hidden, batch, context, rows, caches, prefix);
    for (std::size_t s = 0; s < caches.size(); ++s)
        caches[s]->advance(batch.offsets[s + 1] - batch.offsets[s]);
    return hidden;
}

at::Tensor CausalLM::rows_of_tokens(const at::Tensor& ids) const {
    const at::AutoGradMode no_gradients(false);
    const double scale = spec_.rounds_embedding_scale ? embedding_scale(spec_, compute_dtype_) : 1.0;
    return ops::embedding(embedding_rows(), ids.to(device()), compute_dtype_, -1, scale).to(at::kFloat);
}

void CausalLM::set_hooks(Hooks hooks) {
    stack_.set_bottlenecks(hooks.bottlenecks);
    hooks_ = std::move(hooks);
}

ops::LogitRule CausalLM::logit_rule(const nn::ForwardContext& context) const {
    ops::LogitRule rule{.scale = spec_.logit_scale, .softcap = spec_.logit_softcap, .bias = head_bias_};
    if (head_adapter_) rule.low_rank = head_adapter_->update(context).low_rank;
    return rule;
}

at::Tensor CausalLM::loss_sum(const at::Tensor& hidden_rows, const at::Tensor& targets,
                              const nn::ForwardContext& context) const {
    if (trained_head_.defined())
        return ops::trainable_linear_cross_entropy(hidden_rows, trained_head_, targets, logit_rule());
    return ops::linear_cross_entropy(hidden_rows, output_matrix(), targets, logit_rule(context));
}

ops::TokenScores CausalLM::score(const at::Tensor& hidden_rows, const at::Tensor& targets) const {
    const ops::TokenScores scores =
        trained_head_.defined()
            ? ops::score_tokens(hidden_rows, ops::TrainedHead(trained_head_), targets, logit_rule())
            : ops::score_tokens(hidden_rows, output_matrix(), targets, logit_rule());
    return {.logprobs = scores.logprobs.cpu(), .correct = scores.correct.cpu()};
}

at::Tensor CausalLM::logits(const at::Tensor& hidden_rows) const {
    if (trained_head_.defined())
        return ops::head_logits(hidden_rows, ops::TrainedHead(trained_head_), logit_rule());
    return ops::head_logits(hidden_rows, output_matrix(), logit_rule());
}

void CausalLM::set_embedding(nn::Weight weight, at::Tensor stored) {
    embedding_ = std::move(weight);
    embedding_table_ = std::move(stored);
}

void CausalLM::to(at::Device device) {
    stack_.to(device);
    // A tied head reads the embedding: one copy there, not two.
    embedding_table_ = embedding_table_.to(device);
    embedding_ = nn::Weight(embedding_table_, compute_dtype_);
    if (head_.defined()) head_.to(device);
    if (positions_.defined()) positions_ = positions_.to(device);
    if (head_bias_.defined()) head_bias_ = head_bias_.to(device);
    nn::move_to(trained_embedding_, device);
    nn::move_to(trained_head_, device);
    if (embedding_update_) {
        nn::move_to(embedding_update_->a, device);
        nn::move_to(embedding_update_->b, device);
    }
    if (head_adapter_) {
        for (auto& [name, tensor] : head_adapter_->parameters()) nn::move_to(tensor, device);
    }
    if (hooks_.prompt) hooks_.prompt->to(device);
    if (hooks_.prefix) hooks_.prefix->to(device);
    for (const BranchBottlenecks& layer : hooks_.bottlenecks) {
        for (const std::shared_ptr<Bottleneck>& bottleneck : layer) {
            if (bottleneck) bottleneck->to(device);
        }
    }
}

void CausalLM::train_embedding() {
    trained_embedding_ = embedding_table_.to(at::kFloat).clone().requires_grad_();
}

void CausalLM::train_head() {
    trained_head_ = output_matrix().dense().clone().requires_grad_();
}

void CausalLM::keep_dense(bool keep) {
    const bool on_device = ops::device_kernels(device()) != nullptr;
    keeps_dense_ = keep;
    scratch_.reset();
    std::vector<nn::LinearGroup*> groups;
    std::vector<const nn::ScratchSource*> scratch_users;
    for (const std::vector<nn::LinearGroup*>& layer : stack_.groups()) {
        for (nn::LinearGroup* group : layer) {
            groups.push_back(group);
            if (on_device && !group->move_weights_together())
                scratch_users.push_back(&group->scratch_source());
        }
        // What the weights left is too scattered for the next layer's matrices.
        if (device().is_cuda() && scratch_users.size() < groups.size()) at::accelerator::emptyCache();
    }
    if (!keep && !scratch_users.empty()) {
        scratch_ = std::make_unique<nn::WeightScratch>(scratch_users,
                                                       at::TensorOptions(device()).dtype(compute_dtype_));
    }
    for (nn::LinearGroup* group : groups) {
        group->keep_dense(keep);
        group->use_scratch(scratch_.get());
    }
    // A device multiplies with the head as it is stored.
    if (trained_head_.defined() || on_device) return;
    (spec_.tie_word_embeddings ? embedding_ : head_).keep_dense(keep);
}

bool CausalLM::few_rows_pay() const {
    if (keeps_dense_) return false;
    const std::vector<nn::Linear*> all = const_cast<CausalLM*>(this)->linears();
    return std::any_of(all.begin(), all.end(),
                       [](const nn::Linear* linear) { return linear->weight().multiplies_few(); });
}

std::int64_t CausalLM::dense_bytes() const {
    std::int64_t elements = 0;
    for (const spec::Linear* linear : spec_.linears()) elements += linear->in * linear->out;
    if (ops::device_kernels(device()) != nullptr) {
        return elements * static_cast<std::int64_t>(c10::elementSize(compute_dtype_));
    }
    return (elements + spec_.vocab_size * spec_.hidden_size) * 4;
}

std::int64_t CausalLM::parameter_count() const {
    std::int64_t total = spec_.vocab_size * spec_.hidden_size * (spec_.tie_word_embeddings ? 1 : 2);
    for (const spec::Linear* linear : spec_.linears())
        total += linear->in * linear->out + (linear->bias ? linear->out : 0);
    for (const spec::Norm* norm : spec_.norms()) total += norm->size * (norm->bias ? 2 : 1);
    if (!spec_.positions.empty()) total += spec_.max_position_embeddings * spec_.hidden_size;
    if (spec_.head.bias) total += spec_.vocab_size;
    return total;
}

}  // namespace qlora::models
