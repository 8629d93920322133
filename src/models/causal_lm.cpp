#include "qlora/models/causal_lm.h"

#include <ATen/DeviceAccelerator.h>
#include <ATen/TensorOperators.h>
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

}  // namespace

CausalLM::CausalLM(DecoderSpec decoder, at::ScalarType compute_dtype)
    : spec_(std::move(decoder)), compute_dtype_(compute_dtype), stack_(spec_, compute_dtype) {}

at::Tensor CausalLM::forward(const TokenBatch& batch, const nn::ForwardContext& context,
                             const at::Tensor& rows, std::span<KvCache* const> caches) const {
    const at::Tensor& table = trained_embedding_.defined() ? trained_embedding_ : embedding_table_;
    at::Tensor hidden = ops::embedding(table, batch.ids, compute_dtype_, spec_.pad_token_id.value_or(-1),
                                       embedding_scale(spec_, compute_dtype_));
    if (positions_.defined()) {
        hidden = hidden + ops::embedding(positions_, batch.positions, compute_dtype_, -1);
    }
    return stack_.forward(hidden, batch, context, rows, caches);
}

ops::LogitRule CausalLM::logit_rule() const {
    return {.scale = spec_.logit_scale, .softcap = spec_.logit_softcap, .bias = head_bias_};
}

at::Tensor CausalLM::loss_sum(const at::Tensor& hidden_rows, const at::Tensor& targets) const {
    if (trained_head_.defined())
        return ops::trainable_linear_cross_entropy(hidden_rows, trained_head_, targets, logit_rule());
    return ops::linear_cross_entropy(hidden_rows, output_matrix(), targets, logit_rule());
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
