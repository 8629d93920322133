#include "qlora/models/causal_lm.h"

#include <ATen/DeviceAccelerator.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "qlora/ops/decoder_nodes.h"
#include "qlora/ops/device.h"
#include "qlora/ops/embedding.h"
#include "qlora/ops/mlp_node.h"
#include "qlora/ops/recompute.h"

namespace qlora::models {
namespace {

/// fp32 [head_dim / 2]; transformers' modeling_rope_utils, operation by operation, so that the bits agree.
at::Tensor inverse_frequencies(const ModelConfig& config) {
    const RopeConfig& rope = config.rope;
    const at::Tensor exponent = at::arange(0, config.head_dim, 2, at::kLong).to(at::kFloat) / config.head_dim;
    at::Tensor inverse = 1.0 / at::pow(at::Scalar(rope.theta), exponent);
    if (rope.type == RopeType::kLinear) return inverse / rope.factor;
    if (rope.type != RopeType::kLlama3) return inverse;
    const double original = static_cast<double>(rope.original_max_position_embeddings);
    const double low_wavelength = original / rope.low_freq_factor;
    const double high_wavelength = original / rope.high_freq_factor;
    const at::Tensor wavelength = 2 * std::numbers::pi / inverse;
    const at::Tensor scaled = at::where(wavelength.gt(low_wavelength), inverse / rope.factor, inverse);
    const at::Tensor smooth =
        (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
    const at::Tensor smoothed = (1 - smooth) * scaled / rope.factor + smooth * scaled;
    const at::Tensor medium =
        wavelength.lt(high_wavelength).logical_not().logical_and(wavelength.gt(low_wavelength).logical_not());
    return at::where(medium, smoothed, scaled);
}

std::string layer_path(std::int64_t index, const std::string& rest) {
    return "model.layers." + std::to_string(index) + "." + rest;
}

std::optional<nn::RmsNorm> head_norm(const ModelConfig& config, std::int64_t index, const std::string& name) {
    if (!config.query_key_norm) return std::nullopt;
    return nn::RmsNorm(layer_path(index, "self_attn." + name), config.head_dim, config.rms_norm_eps);
}

}  // namespace

DecoderLayer::DecoderLayer(const ModelConfig& c, std::int64_t i)
    : input_layernorm(layer_path(i, "input_layernorm"), c.hidden_size, c.rms_norm_eps),
      q_proj(layer_path(i, "self_attn.q_proj"), c.hidden_size, c.num_attention_heads * c.head_dim,
             c.query_key_value_bias),
      k_proj(layer_path(i, "self_attn.k_proj"), c.hidden_size, c.num_key_value_heads * c.head_dim,
             c.query_key_value_bias),
      v_proj(layer_path(i, "self_attn.v_proj"), c.hidden_size, c.num_key_value_heads * c.head_dim,
             c.query_key_value_bias),
      o_proj(layer_path(i, "self_attn.o_proj"), c.num_attention_heads * c.head_dim, c.hidden_size,
             c.output_bias),
      q_norm(head_norm(c, i, "q_norm")),
      k_norm(head_norm(c, i, "k_norm")),
      post_attention_layernorm(layer_path(i, "post_attention_layernorm"), c.hidden_size, c.rms_norm_eps),
      gate_proj(layer_path(i, "mlp.gate_proj"), c.hidden_size, c.intermediate_size, c.mlp_bias),
      up_proj(layer_path(i, "mlp.up_proj"), c.hidden_size, c.intermediate_size, c.mlp_bias),
      down_proj(layer_path(i, "mlp.down_proj"), c.intermediate_size, c.hidden_size, c.mlp_bias),
      sliding_window(c.sliding_window.at(static_cast<std::size_t>(i))),
      qkv({&q_proj, &k_proj, &v_proj}),
      output({&o_proj}),
      gate_up({&gate_proj, &up_proj}),
      down({&down_proj}) {}

CausalLM::CausalLM(ModelConfig config, at::ScalarType compute_dtype)
    : config_(std::move(config)),
      compute_dtype_(compute_dtype),
      inverse_frequency_(inverse_frequencies(config_)),
      norm_("model.norm", config_.hidden_size, config_.rms_norm_eps) {
    for (std::int64_t i = 0; i < config_.num_hidden_layers; ++i) {
        layers_.push_back(std::make_unique<DecoderLayer>(config_, i));
    }
}

at::Tensor CausalLM::forward(const TokenBatch& batch, const nn::ForwardContext& context,
                             const at::Tensor& rows, std::span<KvCache* const> caches) const {
    const at::Tensor& table = trained_embedding_.defined() ? trained_embedding_ : embedding_table_;
    at::Tensor hidden = ops::embedding(table, batch.ids, compute_dtype_, config_.pad_token_id.value_or(-1));
    const bool recomputes = context.recomputation == nn::Recomputation::kLayers && at::GradMode::is_enabled();
    // A layer that runs again has no parameters among its arguments: without this it would get no backward
    // pass.
    if (recomputes && !hidden.requires_grad()) hidden.requires_grad_();
    const auto [cos, sin] = ops::rope_table(batch.positions, inverse_frequency_, compute_dtype_);
    ops::SequenceOffsets offsets(batch.offsets);
    offsets.device = batch.device_offsets;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
        const at::Tensor kept_rows = i + 1 == layers_.size() ? rows : at::Tensor();
        const auto segment = [=, this, cos = cos, sin = sin](const at::Tensor& x) {
            return layer_forward(i, x, cos, sin, offsets, context, kept_rows, caches);
        };
        hidden = recomputes ? ops::recomputed(segment, hidden) : segment(hidden);
    }
    return norm_.forward(hidden);
}

at::Tensor CausalLM::layer_forward(std::size_t index, const at::Tensor& hidden, const at::Tensor& cos,
                                   const at::Tensor& sin, const ops::SequenceOffsets& offsets,
                                   const nn::ForwardContext& context, const at::Tensor& rows,
                                   std::span<KvCache* const> caches) const {
    const DecoderLayer& layer = *layers_[index];
    const ops::AttentionShape shape{.heads = config_.num_attention_heads,
                                    .kv_heads = config_.num_key_value_heads,
                                    .head_dim = config_.head_dim,
                                    .window = layer.sliding_window};
    std::optional<ops::HeadNorms> head_norms;
    if (layer.q_norm) head_norms = {layer.q_norm->weight(), layer.k_norm->weight(), layer.q_norm->eps()};
    const ops::HeadNorms* norms = head_norms ? &*head_norms : nullptr;

    auto [qkv, residual] = ops::norm_project(hidden, layer.input_layernorm.weight(),
                                             layer.input_layernorm.eps(), layer.qkv.projections(context));
    at::Tensor attended =
        caches.empty() ? ops::rotary_attention(qkv, {.cos = cos, .sin = sin}, offsets, shape, norms)
                       : attend_to_caches(index, ops::rotated(qkv, {.cos = cos, .sin = sin}, shape, norms),
                                          offsets.host, shape, caches);
    if (rows.defined()) {
        attended = attended.index_select(0, rows);
        residual = residual.index_select(0, rows);
    }
    // On a device the next norm's kernel adds the residual; on the CPU the product's sums start from it.
    const bool adds_in_norm = ops::device_kernels(hidden) != nullptr;
    const at::Tensor output = ops::project_residual(attended, adds_in_norm ? at::Tensor() : residual,
                                                    layer.output.projections(context));
    if (context.recomputation != nn::Recomputation::kNone && at::GradMode::is_enabled()) {
        // With whole layers recomputed, gradients are on in backward alone, where no value is read.
        const ops::NodeOutput use = context.recomputation == nn::Recomputation::kLayers
                                        ? ops::NodeOutput::kGraphOnly
                                        : ops::NodeOutput::kUsed;
        return ops::mlp_residual(adds_in_norm ? residual + output : output,
                                 layer.post_attention_layernorm.weight(),
                                 layer.post_attention_layernorm.eps(), layer.gate_up.projections(context),
                                 layer.down.projections(context), use);
    }
    const auto [gate_up, middle_residual] =
        ops::norm_project(adds_in_norm ? residual : output, layer.post_attention_layernorm.weight(),
                          layer.post_attention_layernorm.eps(), layer.gate_up.projections(context),
                          adds_in_norm ? output : at::Tensor());
    return ops::swiglu_project_residual(gate_up, middle_residual, layer.down.projections(context));
}

at::Tensor CausalLM::attend_to_caches(std::size_t index, const at::Tensor& qkv,
                                      const std::vector<std::int64_t>& offsets,
                                      const ops::AttentionShape& shape,
                                      std::span<KvCache* const> caches) const {
    at::Tensor attended = at::empty({qkv.size(0), shape.q_size()}, qkv.options());
    for (std::size_t s = 0; s < caches.size(); ++s) {
        const std::int64_t begin = offsets[s], n = offsets[s + 1] - begin;
        const at::Tensor new_rows = qkv.narrow(0, begin, n);
        const auto heads = [&](std::int64_t column) {
            return new_rows.narrow(1, column, shape.kv_size()).view({n, shape.kv_heads, shape.head_dim});
        };
        const auto [keys, values] = caches[s]->append(static_cast<std::int64_t>(index), heads(shape.q_size()),
                                                      heads(shape.q_size() + shape.kv_size()));
        attended.narrow(0, begin, n)
            .copy_(ops::cached_attention(new_rows.narrow(1, 0, shape.q_size()), keys, values, shape));
    }
    return attended;
}

at::Tensor CausalLM::loss_sum(const at::Tensor& hidden_rows, const at::Tensor& targets) const {
    if (trained_head_.defined())
        return ops::trainable_linear_cross_entropy(hidden_rows, trained_head_, targets);
    return ops::linear_cross_entropy(hidden_rows, output_matrix(), targets);
}

ops::TokenScores CausalLM::score(const at::Tensor& hidden_rows, const at::Tensor& targets) const {
    const ops::TokenScores scores =
        trained_head_.defined() ? ops::score_tokens(hidden_rows, ops::TrainedHead(trained_head_), targets)
                                : ops::score_tokens(hidden_rows, output_matrix(), targets);
    return {.logprobs = scores.logprobs.cpu(), .correct = scores.correct.cpu()};
}

at::Tensor CausalLM::logits(const at::Tensor& hidden_rows) const {
    if (trained_head_.defined()) return ops::head_logits(hidden_rows, ops::TrainedHead(trained_head_));
    return ops::head_logits(hidden_rows, output_matrix());
}

std::vector<nn::Linear*> CausalLM::linears() {
    std::vector<nn::Linear*> out;
    for (const auto& layer : layers_) {
        for (nn::Linear* linear : {&layer->q_proj, &layer->k_proj, &layer->v_proj, &layer->o_proj,
                                   &layer->gate_proj, &layer->up_proj, &layer->down_proj}) {
            out.push_back(linear);
        }
    }
    return out;
}

std::vector<nn::RmsNorm*> CausalLM::norms() {
    std::vector<nn::RmsNorm*> out;
    for (const auto& layer : layers_) {
        out.push_back(&layer->input_layernorm);
        if (layer->q_norm) out.push_back(&*layer->q_norm);
        if (layer->k_norm) out.push_back(&*layer->k_norm);
        out.push_back(&layer->post_attention_layernorm);
    }
    out.push_back(&norm_);
    return out;
}

void CausalLM::set_embedding(nn::Weight weight, at::Tensor stored) {
    embedding_ = std::move(weight);
    embedding_table_ = std::move(stored);
}

void CausalLM::to(at::Device device) {
    for (nn::Linear* linear : linears()) linear->to(device);
    for (nn::RmsNorm* norm : norms()) norm->to(device);
    // A tied head reads the embedding: one copy there, not two.
    embedding_table_ = embedding_table_.to(device);
    embedding_ = nn::Weight(embedding_table_, compute_dtype_);
    if (head_.defined()) head_.to(device);
    nn::move_to(trained_embedding_, device);
    nn::move_to(trained_head_, device);
    inverse_frequency_ = inverse_frequency_.to(device);
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
    for (const auto& layer : layers_) {
        for (nn::LinearGroup* group : {&layer->qkv, &layer->output, &layer->gate_up, &layer->down}) {
            groups.push_back(group);
            if (on_device && !group->move_weights_together()) scratch_users.push_back(group);
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
    (config_.tie_word_embeddings ? embedding_ : head_).keep_dense(keep);
}

bool CausalLM::few_rows_pay() const {
    if (keeps_dense_) return false;
    return std::any_of(layers_.begin(), layers_.end(), [](const auto& layer) {
        const nn::Linear* linears[] = {&layer->q_proj, &layer->o_proj, &layer->gate_proj, &layer->down_proj};
        return std::any_of(std::begin(linears), std::end(linears),
                           [](const nn::Linear* linear) { return linear->weight().multiplies_few(); });
    });
}

std::int64_t CausalLM::dense_bytes() const {
    std::int64_t elements = 0;
    for (const nn::Linear* linear : const_cast<CausalLM*>(this)->linears()) {
        elements += linear->in_features() * linear->out_features();
    }
    if (ops::device_kernels(device()) != nullptr) {
        return elements * static_cast<std::int64_t>(c10::elementSize(compute_dtype_));
    }
    return (elements + config_.vocab_size * config_.hidden_size) * 4;
}

std::int64_t CausalLM::parameter_count() const {
    auto* self = const_cast<CausalLM*>(this);
    std::int64_t total = config_.vocab_size * config_.hidden_size * (config_.tie_word_embeddings ? 1 : 2);
    for (const nn::Linear* linear : self->linears()) {
        total += linear->in_features() * linear->out_features() +
                 (linear->has_bias() ? linear->out_features() : 0);
    }
    for (const nn::RmsNorm* norm : self->norms()) total += norm->size();
    return total;
}

}  // namespace qlora::models
