// The model on kernels of a device, emulated: the code that runs on a GPU, with the kernels from their own
// source.
#include "device/emulated.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full_like.h>
#include <gtest/gtest.h>

#include <map>

#include "qlora/adapters/inject.h"
#include "qlora/adapters/virtual_tokens.h"
#include "qlora/data/batch.h"
#include "qlora/eval/generate.h"
#include "qlora/eval/token_batch.h"
#include "qlora/models/base_loader.h"
#include "qlora/ops/device.h"
#include "support/described_model.h"
#include "support/tiny_model.h"

namespace qlora {
namespace {

using test::TempDir;
using test::TinyModel;

struct Case {
    const char* name;
    TinyModel tiny;
    std::function<void(adapters::LoraConfig&)> adapt = [](adapters::LoraConfig&) {};
    bool quantized = true;
    Json described = nullptr;     ///< config.json of a type that TinyModel does not write; instead of `tiny`
    bool virtual_tokens = false;  ///< a prompt and a prefix train instead of an adapter of linears
    std::optional<adapters::BottleneckKind> bottleneck = std::nullopt;  ///< likewise
};

std::ostream& operator<<(std::ostream& out, const Case& value) {
    return out << value.name;
}

/// What a pass over some rows gives, in fp32.
struct Outcome {
    double loss = 0.0;
    std::map<std::string, at::Tensor> gradients;
    at::Tensor logprobs;
    std::vector<std::vector<tokenizer::TokenId>> generated;
};

struct Settings {
    at::ScalarType compute = at::kFloat;
    bool keep_dense = false;
    nn::Recomputation recomputation = nn::Recomputation::kNone;
    double loss_scale = 1.0;
};

std::vector<data::Example> rows() {
    std::vector<data::Example> out;
    for (int row = 0; row < 3; ++row) {
        data::Example example;
        for (int i = 0; i < 5 + 4 * row; ++i) {
            example.ids.push_back(static_cast<tokenizer::TokenId>((3 + 29 * row + 11 * i) % 97));
            example.supervised.push_back(i >= 2 ? 1 : 0);
        }
        out.push_back(std::move(example));
    }
    return out;
}

/// Sets a prompt and a prefix, both from encoders; returns what trains.
std::vector<nn::Parameter> set_virtual_tokens(models::CausalLM& model) {
    const auto layers = static_cast<std::int64_t>(model.spec().layers.size());
    const std::int64_t kv_size = adapters::key_value_heads(model.spec()).kv_size();
    const auto prompt = std::make_shared<adapters::PromptEncoder>(
        adapters::p_tuning_lstm(3, model.spec().hidden_size, 8, 1, 0.0), 1);
    const auto prefix =
        std::make_shared<adapters::PromptEncoder>(adapters::prefix_projection(4, layers, kv_size, 12), 2);
    model.set_hooks({.prompt = std::make_shared<adapters::EncodedPrompt>(prompt),
                     .prefix = std::make_shared<adapters::EncodedPrefix>(prefix, layers)});
    std::vector<nn::Parameter> out = prompt->parameters();
    for (nn::Parameter parameter : prefix->parameters()) {
        parameter.key.insert(0, "prefix ");
        out.push_back(parameter);
    }
    return out;
}

/// Large ones, so that all gradients count.
adapters::Adaptation set_bottlenecks(models::CausalLM& model, adapters::BottleneckKind kind) {
    adapters::BottleneckConfig config;
    config.config = kind;
    config.reduction_factor.emplace(4.0);
    config.init_weights = adapters::BottleneckInit::kBert;
    adapters::Adaptation out = adapters::inject(model, config, 5);
    const at::AutoGradMode off(false);
    for (const nn::Parameter& parameter : out.parameters) at::Tensor(parameter.tensor).mul_(10.0);
    return out;
}

Outcome run(const Case& value, const Settings& settings) {
    const TempDir dir;
    if (value.described.is_null()) {
        value.tiny.write(dir.path());
    } else {
        test::write_described(dir.path(), value.described);
    }
    quant::QuantConfig quantization;
    quantization.load_in_4bit = value.quantized;
    adapters::LoraConfig lora;
    lora.r = 3;
    lora.target_modules = "all-linear";
    lora.init_lora_weights = adapters::InitLoraWeights::kRandom;  // B too, so that all gradients count
    value.adapt(lora);
    const models::DecoderSpec config = models::load_decoder_spec(dir.path());
    const adapters::Plan plan = adapters::plan_adapter(lora, config);
    const models::LoadOptions options{.quantization = quantization,
                                      .compute_dtype = settings.compute,
                                      .stays_dense = [&](const std::string& path) {
                                          const auto& whole = plan.modules_to_save;
                                          return std::find(whole.begin(), whole.end(), path) != whole.end();
                                      }};
    const io::Checkpoint checkpoint(dir.path());
    const auto model = models::load_base(checkpoint, config, options);
    adapters::Adaptation adaptation;
    if (value.virtual_tokens) {
        adaptation.parameters = set_virtual_tokens(*model);
    } else if (value.bottleneck) {
        adaptation = set_bottlenecks(*model, *value.bottleneck);
    } else {
        adaptation = adapters::inject(*model, lora, 5);
    }
    model->keep_dense(settings.keep_dense);

    const std::vector<data::Example> examples = rows();
    std::vector<const data::Example*> pointers;
    for (const data::Example& example : examples) pointers.push_back(&example);
    const models::TokenBatch there = eval::token_batch(data::collate(pointers), model->device());
    const nn::ForwardContext context{
        .training = true, .recomputation = settings.recomputation, .seed = 9, .micro_step = 4};
    Outcome out;
    for (int pass = 0; pass < 2; ++pass) {  // the second meets matrices that were prepared ahead
        for (const nn::Parameter& parameter : adaptation.parameters) {
            parameter.tensor.mutable_grad() = at::Tensor();
        }
        const at::Tensor hidden = model->forward(there, context, there.rows);
        const at::Tensor loss = model->loss_sum(hidden, there.targets, context);
        loss.backward(at::full_like(loss, settings.loss_scale));
        out.loss = loss.item<double>();
    }
    for (const nn::Parameter& parameter : adaptation.parameters) {
        out.gradients[parameter.key] = parameter.tensor.grad() / settings.loss_scale;
    }
    const at::AutoGradMode no_gradients(false);
    const at::Tensor hidden = model->forward(there, {}, there.rows);
    out.logprobs = model->score(hidden, there.targets).logprobs;
    std::vector<std::vector<tokenizer::TokenId>> prompts;
    for (const data::Example& example : examples) prompts.push_back(example.ids);
    eval::GenerateOptions generation;
    generation.max_new_tokens = 6;
    out.generated = eval::generate(*model, prompts, generation);
    return out;
}

Outcome run_emulated(const Case& value, const Settings& settings) {
    const ops::CpuKernelsGuard guard(kernels::emulated::kernel_table());
    return run(value, settings);
}

/// Largest difference as a share of the largest value of all gradients.
double gradient_gap(const Outcome& a, const Outcome& b) {
    double largest = 0.0, gap = 0.0;
    for (const auto& [key, gradient] : a.gradients) {
        largest = std::max(largest, gradient.abs().max().item<double>());
        gap = std::max(gap, (gradient - b.gradients.at(key)).abs().max().item<double>());
    }
    return gap / largest;
}

void expect_same_bits(const Outcome& a, const Outcome& b) {
    EXPECT_EQ(a.loss, b.loss);
    EXPECT_TRUE(a.logprobs.equal(b.logprobs));
    for (const auto& [key, gradient] : a.gradients) EXPECT_TRUE(gradient.equal(b.gradients.at(key))) << key;
    EXPECT_EQ(a.generated, b.generated);
}

class EmulatedModel : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    Models, EmulatedModel,
    testing::Values(Case{"llama", {}}, Case{"llama_dense", {.dtype = io::DType::kBF16}, {}, false},
                    Case{"llama_tied_bias",
                         {.tie = true, .bias = true},
                         [](auto& c) { c.bias = adapters::BiasTraining::kAll; }},
                    Case{"llama_dropout", {}, [](auto& c) { c.lora_dropout = 0.25; }},
                    Case{"llama_some_targets",
                         {},
                         [](auto& c) {
                             c.target_modules = std::vector<std::string>{"q_proj", "v_proj"};
                         }},
                    Case{"embedding_and_head",
                         {},
                         [](auto& c) {
                             c.target_modules = std::vector<std::string>{"embed_tokens", "lm_head", "q_proj"};
                             c.lora_dropout = 0.25;
                         }},
                    Case{"shared_embedding_and_head",
                         {.tie = true},
                         [](auto& c) {
                             c.target_modules = std::vector<std::string>{"lm_head", "down_proj"};
                             c.ensure_weight_tying = true;
                             c.lora_alpha = 0.5;  // both matrices begin normal: logits stay small
                         }},
                    Case{"mistral_window", {.model_type = "mistral", .sliding_window = 5}},
                    Case{"qwen2_window", {.model_type = "qwen2", .sliding_window = 4}},
                    Case{"qwen3", {.model_type = "qwen3", .kv_heads = 1, .bias = true}},
                    Case{.name = "virtual_tokens",
                         .tiny = {.model_type = "qwen3", .sliding_window = 5},
                         .virtual_tokens = true},
                    Case{.name = "seq_bn", .tiny = {}, .bottleneck = adapters::BottleneckKind::kSeq},
                    Case{.name = "double_seq_bn",
                         .tiny = {.model_type = "qwen2"},
                         .bottleneck = adapters::BottleneckKind::kDoubleSeq},
                    Case{.name = "par_bn", .tiny = {}, .bottleneck = adapters::BottleneckKind::kPar},
                    Case{"trained_modules",
                         {.model_type = "qwen3"},
                         [](auto& c) {
                             c.target_modules = std::vector<std::string>{"q_proj", "up_proj"};
                             c.modules_to_save = std::vector<std::string>{
                                 "embed_tokens", "lm_head", "down_proj", "q_norm", "input_layernorm", "norm"};
                         }}),
    [](const auto& chosen) { return chosen.param.name; });

Case described(const char* model_type, const Json& changes = Json::object()) {
    Json config = {{"model_type", model_type}, {"vocab_size", 97},
                   {"hidden_size", 32},        {"intermediate_size", 48},
                   {"num_hidden_layers", 2},   {"num_attention_heads", 4},
                   {"num_key_value_heads", 2}, {"max_position_embeddings", 64}};
    config.update(changes);
    return {.name = model_type, .tiny = {}, .described = std::move(config)};
}
Case with_bottlenecks(const char* name, Case value, adapters::BottleneckKind kind) {
    value.name = name;
    value.bottleneck = kind;
    return value;
}
INSTANTIATE_TEST_SUITE_P(
    Types, EmulatedModel,
    testing::Values(with_bottlenecks("par_bn_gemma2", described("gemma2", {{"head_dim", 8}}),
                                     adapters::BottleneckKind::kPar),
                    described("gemma2", {{"head_dim", 8}, {"sliding_window", 4}}),
                    described("gemma3_text", {{"head_dim", 8}, {"sliding_window", 4}}), described("phi3"),
                    described("granite", {{"embedding_multiplier", 3.0}, {"residual_multiplier", 0.5}}),
                    described("olmo2"), described("glm4", {{"head_dim", 8}}), described("cohere"),
                    described("gpt_neox"), described("stablelm"),
                    Case{.name = "gpt2",
                         .tiny = {},
                         .described = {{"model_type", "gpt2"},
                                       {"vocab_size", 97},
                                       {"n_embd", 32},
                                       {"n_layer", 2},
                                       {"n_head", 4},
                                       {"n_positions", 64}}},
                    described("qwen2_moe", {{"num_experts", 4},
                                            {"num_experts_per_tok", 2},
                                            {"moe_intermediate_size", 16},
                                            {"shared_expert_intermediate_size", 24}})),
    [](const auto& chosen) { return chosen.param.name; });

// fp32 sums of at most 97 terms in another order, through two layers.
constexpr double kFloatBound = 1e-5;

TEST_P(EmulatedModel, equals_the_cpu_in_fp32) {
    Case value = GetParam();
    if (!value.adapt) value.adapt = [](auto&) {};
    const Outcome cpu = run(value, {}), device = run_emulated(value, {});
    EXPECT_NEAR(device.loss / cpu.loss, 1.0, kFloatBound);
    EXPECT_LE(gradient_gap(cpu, device), kFloatBound);
    EXPECT_LE((cpu.logprobs - device.logprobs).abs().max().item<double>(), kFloatBound);
    EXPECT_EQ(cpu.generated, device.generated);
    EXPECT_FALSE(cpu.loss == device.loss && gradient_gap(cpu, device) == 0.0) << "did the kernels run?";
}

TEST_P(EmulatedModel, memory_savers_change_no_bit) {
    Case value = GetParam();
    if (!value.adapt) value.adapt = [](auto&) {};
    const Outcome plain = run_emulated(value, {});
    expect_same_bits(plain, run_emulated(value, {.keep_dense = true}));
    for (const auto level : {nn::Recomputation::kMlp, nn::Recomputation::kLayers}) {
        expect_same_bits(plain, run_emulated(value, {.recomputation = level}));
    }
}

TEST_P(EmulatedModel, memory_savers_change_no_bit_in_bf16) {
    Case value = GetParam();
    if (!value.adapt) value.adapt = [](auto&) {};
    const Outcome plain = run_emulated(value, {.compute = at::kBFloat16});
    expect_same_bits(plain, run_emulated(value, {.compute = at::kBFloat16, .keep_dense = true}));
    for (const auto level : {nn::Recomputation::kMlp, nn::Recomputation::kLayers}) {
        expect_same_bits(plain, run_emulated(value, {.compute = at::kBFloat16, .recomputation = level}));
    }
}

TEST_P(EmulatedModel, sixteen_bit_types_are_near_fp32) {
    Case value = GetParam();
    if (!value.adapt) value.adapt = [](auto&) {};
    const Outcome cpu = run(value, {});
    for (const auto& [dtype, bound] : {std::pair{at::kBFloat16, 0x1p-8}, std::pair{at::kHalf, 0x1p-11}}) {
        // float16 trains with a scaled loss: small gradients would vanish.
        const double scale = dtype == at::kHalf ? 256.0 : 1.0;
        const Outcome device = run_emulated(value, {.compute = dtype, .loss_scale = scale});
        // A few dozen roundings of relative size `bound`, which add up like a random walk; in gradients of
        // attention scores they cancel badly, on the CPU as here.
        EXPECT_NEAR(device.loss / cpu.loss, 1.0, 4 * bound) << at::toString(dtype);
        const double noise = gradient_gap(cpu, run(value, {.compute = dtype, .loss_scale = scale}));
        EXPECT_LE(gradient_gap(cpu, device), 2 * noise + 4 * bound) << at::toString(dtype);
        RecordProperty(std::string("cpu") + at::toString(dtype), std::to_string(noise / bound));
        RecordProperty(at::toString(dtype), std::to_string(gradient_gap(cpu, device) / bound));
        for (const auto& [key, gradient] : device.gradients) EXPECT_EQ(gradient.scalar_type(), at::kFloat);
    }
}

TEST(EmulatedQuantization, bytes_equal_those_of_the_cpu) {
    const TempDir dir;
    TinyModel{}.write(dir.path());
    const io::Checkpoint checkpoint(dir.path());
    const models::DecoderSpec config = models::load_decoder_spec(dir.path());
    const auto cpu = models::load_base(checkpoint, config, {});
    const ops::CpuKernelsGuard guard(kernels::emulated::kernel_table());
    const auto device = models::load_base(checkpoint, config, {});
    const auto left = cpu->linears(), right = device->linears();
    ASSERT_FALSE(left.empty());
    for (std::size_t i = 0; i < left.size(); ++i) {
        const quant::QuantizedTensor &a = left[i]->weight().quantized(), &b = right[i]->weight().quantized();
        EXPECT_TRUE(a.codes.equal(b.codes)) << left[i]->path();
        EXPECT_TRUE(a.absmax.equal(b.absmax)) << left[i]->path();
        EXPECT_TRUE(a.nested_absmax.equal(b.nested_absmax)) << left[i]->path();
        EXPECT_EQ(a.nested_offset, b.nested_offset) << left[i]->path();
    }
}

TEST(EmulatedQuantization, a_value_that_is_not_finite_is_named) {
    const TempDir dir;
    const TinyModel tiny;
    auto tensors = tiny.tensors();
    tensors.at("model.layers.1.mlp.up_proj.weight").values[32 * 7 + 5] = INFINITY;
    TinyModel::write(dir.path(), tiny.config(), tensors);
    const ops::CpuKernelsGuard guard(kernels::emulated::kernel_table());
    try {
        models::load_base(io::Checkpoint(dir.path()), models::load_decoder_spec(dir.path()), {});
        FAIL() << "accepted";
    } catch (const CheckpointError& error) {
        EXPECT_NE(std::string(error.what()).find("model.layers.1.mlp.up_proj.weight"), std::string::npos);
        EXPECT_NE(std::string(error.what()).find("row 7, column 5"), std::string::npos) << error.what();
    }
}

}  // namespace
}  // namespace qlora
