#include "qlora/adapters/prompt_encoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <cmath>

#include "qlora/kernels/philox.h"
#include "qlora/nn/move.h"
#include "qlora/ops/encoder_nodes.h"

namespace qlora::adapters {
namespace {

const std::string kModule = "prompt_encoder.default.";
/// Streams and dropout sites that no adapter of a linear has.
constexpr std::uint64_t kFirstStream = std::uint64_t{1} << 32;
constexpr std::uint32_t kFirstSite = std::uint32_t{1} << 31;

/// "lstm_head.weight_ih_l1_reverse"
std::string lstm_name(const char* tensor, std::int64_t layer, bool reverse) {
    return "lstm_head." + std::string(tensor) + "_l" + std::to_string(layer) + (reverse ? "_reverse" : "");
}

/// Linears have an activation between them, which is a module too.
std::string linear_name(const PromptEncoderShape::Linears& linears, std::size_t place) {
    return linears.module + "." + std::to_string(2 * place) + ".";
}

}  // namespace

std::vector<PromptEncoderShape::Tensor> PromptEncoderShape::tensors() const {
    std::vector<Tensor> out = {{.key = kModule + "embedding.weight", .sizes = {tokens, width}}};
    const auto add = [&](const std::string& name, std::vector<std::int64_t> sizes, double bound) {
        const bool is_bias = sizes.size() == 1;
        out.push_back({.key = kModule + name, .sizes = std::move(sizes), .bound = bound, .decays = !is_bias});
    };
    if (lstm) {
        const std::int64_t h = lstm->hidden;
        const double bound = 1.0 / std::sqrt(static_cast<double>(h));
        for (std::int64_t layer = 0; layer < lstm->layers; ++layer) {
            for (const bool reverse : {false, true}) {
                add(lstm_name("weight_ih", layer, reverse), {4 * h, layer == 0 ? width : 2 * h}, bound);
                add(lstm_name("weight_hh", layer, reverse), {4 * h, h}, bound);
                add(lstm_name("bias_ih", layer, reverse), {4 * h}, bound);
                add(lstm_name("bias_hh", layer, reverse), {4 * h}, bound);
            }
        }
    }
    for (std::size_t i = 0; linears && i + 1 < linears->widths.size(); ++i) {
        const std::int64_t in = linears->widths[i], to = linears->widths[i + 1];
        const double bound = 1.0 / std::sqrt(static_cast<double>(in));
        add(linear_name(*linears, i) + "weight", {to, in}, bound);
        add(linear_name(*linears, i) + "bias", {to}, bound);
    }
    return out;
}

PromptEncoderShape prompt_embedding(std::int64_t tokens, std::int64_t hidden_size) {
    return {.tokens = tokens, .width = hidden_size};
}

PromptEncoderShape p_tuning_mlp(std::int64_t tokens, std::int64_t hidden_size, std::int64_t encoder_hidden) {
    return {.tokens = tokens,
            .width = hidden_size,
            .linears = {{.module = "mlp_head",
                         .widths = {hidden_size, encoder_hidden, encoder_hidden, hidden_size}}}};
}

PromptEncoderShape p_tuning_lstm(std::int64_t tokens, std::int64_t hidden_size, std::int64_t encoder_hidden,
                                 std::int64_t encoder_layers, double dropout) {
    return {
        .tokens = tokens,
        .width = hidden_size,
        .lstm = {{.hidden = encoder_hidden, .layers = encoder_layers, .dropout = dropout}},
        .linears = {{.module = "mlp_head", .widths = {2 * encoder_hidden, 2 * encoder_hidden, hidden_size}}}};
}

PromptEncoderShape prefix_embedding(std::int64_t tokens, std::int64_t layers, std::int64_t kv_size) {
    return {.tokens = tokens, .width = layers * 2 * kv_size};
}

PromptEncoderShape prefix_projection(std::int64_t tokens, std::int64_t layers, std::int64_t kv_size,
                                     std::int64_t encoder_hidden) {
    return {.tokens = tokens,
            .width = kv_size,
            .linears = {{.module = "transform",
                         .widths = {kv_size, encoder_hidden, layers * 2 * kv_size},
                         .activation = PromptEncoderShape::Activation::kTanh}}};
}

PromptEncoder::PromptEncoder(PromptEncoderShape shape, std::uint64_t seed) : shape_(std::move(shape)) {
    for (const PromptEncoderShape::Tensor& described : shape_.tensors()) {
        at::Tensor values = at::empty(described.sizes, at::kFloat);
        kernels::PhiloxStream stream(seed, kFirstStream + parameters_.size());
        const auto bound = static_cast<float>(described.bound);
        float* data = values.mutable_data_ptr<float>();
        for (std::int64_t i = 0; i < values.numel(); ++i)
            data[i] = bound > 0 ? (2.0F * stream.uniform() - 1.0F) * bound : stream.normal();
        parameters_.push_back({described.key, values.requires_grad_(), described.decays});
    }
}

const at::Tensor& PromptEncoder::tensor(const std::string& name) const {
    for (const nn::Parameter& parameter : parameters_) {
        if (parameter.key == kModule + name) return parameter.tensor;
    }
    TORCH_CHECK(false, "prompt encoder: no tensor ", name);
}

at::Tensor PromptEncoder::lstm(at::Tensor x, const nn::ForwardContext& context) const {
    for (std::int64_t layer = 0; layer < shape_.lstm->layers; ++layer) {
        if (layer > 0 && context.training) {
            x = ops::dropped_out(x, {.p = shape_.lstm->dropout,
                                     .seed = context.seed,
                                     .step = context.micro_step,
                                     .site = kFirstSite + static_cast<std::uint32_t>(layer)});
        }
        std::vector<at::Tensor> directions;
        for (const bool reverse : {false, true}) {
            const auto of = [&](const char* name) { return tensor(lstm_name(name, layer, reverse)); };
            directions.push_back(ops::lstm_direction(ops::affine(x, of("weight_ih"), of("bias_ih")),
                                                     of("weight_hh"), of("bias_hh"), reverse));
        }
        x = at::cat(directions, 1);
    }
    return x;
}

at::Tensor PromptEncoder::forward(const nn::ForwardContext& context) const {
    at::Tensor x = tensor("embedding.weight");
    if (shape_.lstm) x = lstm(x, context);
    for (std::size_t i = 0; shape_.linears && i + 1 < shape_.linears->widths.size(); ++i) {
        if (i > 0) {
            const bool is_relu = shape_.linears->activation == PromptEncoderShape::Activation::kRelu;
            x = is_relu ? x.relu() : x.tanh();
        }
        const std::string name = linear_name(*shape_.linears, i);
        x = ops::affine(x, tensor(name + "weight"), tensor(name + "bias"));
    }
    return x;
}

void PromptEncoder::set_embedding(const at::Tensor& rows) {
    const at::AutoGradMode no_gradients(false);
    at::Tensor embedding = tensor("embedding.weight");
    TORCH_CHECK(rows.sizes() == embedding.sizes(), "prompt encoder: rows ", rows.sizes(),
                " for an embedding ", embedding.sizes());
    embedding.copy_(rows);
}

void PromptEncoder::set_results_to_zero() {
    const at::AutoGradMode no_gradients(false);
    if (shape_.is_embedding()) {
        at::Tensor(tensor("embedding.weight")).zero_();
        return;
    }
    const std::string last = linear_name(*shape_.linears, shape_.linears->widths.size() - 2);
    for (const char* part : {"weight", "bias"}) at::Tensor(tensor(last + part)).zero_();
}

std::vector<nn::Parameter> PromptEncoder::parameters() const {
    return parameters_;
}

nn::Parameter PromptEncoder::saved() const {
    const at::AutoGradMode no_gradients(false);
    return {kSavedKey, forward({}).detach().contiguous()};
}

void PromptEncoder::to(at::Device device) {
    for (nn::Parameter& parameter : parameters_) nn::move_to(parameter.tensor, device);
}

}  // namespace qlora::adapters
