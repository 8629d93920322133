#include "cli/memory_options.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "support/llama_config.h"

namespace qlora::cli {
namespace {

models::DecoderSpec small_llama() {
    models::DecoderSpec config = test::llama_config(
        {.vocab = 300, .hidden = 64, .inner = 160, .layers = 4, .heads = 4, .kv_heads = 2, .head_dim = 16});
    config.dtype = "float32";
    return config;
}

RunConfig small_run() {
    RunConfig config;
    std::get<adapters::LoraConfig>(config.peft).r = 8;
    std::get<adapters::LoraConfig>(config.peft).target_modules = "all-linear";
    config.training.per_device_train_batch_size = 8;
    config.training.gradient_accumulation_steps = 2;
    return config;
}

/// 64 rows of 20 to 83 tokens, the second half of each supervised.
RowLengths some_rows() {
    RowLengths rows;
    for (std::int64_t i = 0; i < 64; ++i) {
        rows.tokens.push_back(20 + i);
        rows.supervised.push_back((20 + i) / 2);
    }
    return rows;
}

std::map<std::string, std::int64_t> options_of(const RunConfig& config,
                                               nn::Recomputation level = nn::Recomputation::kNone,
                                               bool keep_dense = false) {
    train::MemoryChoice choice;
    choice.recomputation = level;
    choice.keep_dense = keep_dense;
    choice.request = memory_request(config, small_llama(), some_rows(), at::kCPU);
    choice.request.recomputation = level;
    choice.request.keep_dense = keep_dense;
    std::map<std::string, std::int64_t> out;
    for (const train::MemoryOption& option : memory_options(config, small_llama(), some_rows(), choice)) {
        out[option.setting] = option.needed;
    }
    return out;
}

std::int64_t needed(const RunConfig& config, const RowLengths& rows = some_rows(),
                    nn::Recomputation level = nn::Recomputation::kNone) {
    train::MemoryRequest request = memory_request(config, small_llama(), rows, at::kCPU);
    request.recomputation = level;
    return train::plan_memory(request).needed();
}

TEST(MemoryRequest, holds_the_largest_micro_batch) {
    RunConfig config = small_run();
    config.training.per_device_train_batch_size = 1;
    const train::MemoryRequest request = memory_request(config, small_llama(), some_rows(), at::kCPU);
    EXPECT_EQ(request.tokens, 83);
    EXPECT_EQ(request.supervised_tokens, 41);
    config.training.per_device_train_batch_size = 64;
    EXPECT_EQ(memory_request(config, small_llama(), some_rows(), at::kCPU).tokens, 64 * 20 + 63 * 32);
    config.data.max_tokens_per_batch = 200;
    EXPECT_LE(memory_request(config, small_llama(), some_rows(), at::kCPU).tokens, 200);
    config.peft = adapters::PromptTuningConfig{.tokens = {.num_virtual_tokens = 20}};
    EXPECT_LE(memory_request(config, small_llama(), some_rows(), at::kCPU).tokens, 200);
    EXPECT_EQ(request.stored_bytes_per_weight, 4);
    // A [r, in] and B [out, r] of q, k, v, o, gate, up, down in four layers.
    EXPECT_EQ(request.trained_elements, 4 * 8 * ((64 + 64) * 2 + (64 + 32) * 2 + (64 + 160) * 3));
}

TEST(MemoryRequest, the_rows_are_part_of_the_plan) {
    RowLengths rows = some_rows();
    const RunConfig config = small_run();
    const train::MemoryPlan without =
        train::plan_memory(memory_request(config, small_llama(), rows, at::kCPU));
    rows.held_bytes = 1 << 20;
    const train::MemoryPlan with = train::plan_memory(memory_request(config, small_llama(), rows, at::kCPU));
    EXPECT_EQ(with.total(), without.total() + (1 << 20));
    EXPECT_EQ(with.needed(), without.needed()) << "they are there already";
}

TEST(MemoryOptions, each_is_planned_as_the_changed_run_would_be) {
    const RunConfig config = small_run();
    const auto options = options_of(config);
    const std::int64_t now = needed(config);
    RunConfig changed = config;
    changed.training.per_device_train_batch_size = 4;
    EXPECT_EQ(options.at("training.per_device_train_batch_size: 4"), needed(changed));
    changed = config;
    std::get<adapters::LoraConfig>(changed.peft).r = 4;
    EXPECT_EQ(options.at("peft.r: 4"), needed(changed));
    changed = config;
    std::get<adapters::LoraConfig>(changed.peft).target_modules = adapters::NameList{"q_proj", "v_proj"};
    EXPECT_EQ(options.at(R"(peft.target_modules: ["q_proj", "v_proj"])"), needed(changed));
    EXPECT_EQ(options.at("training.gradient_checkpointing: true"),
              needed(config, some_rows(), nn::Recomputation::kLayers));
    RowLengths short_rows;
    for (std::int64_t i = 20; i <= 64; ++i) {
        short_rows.tokens.push_back(i);
        short_rows.supervised.push_back(i / 2);
    }
    EXPECT_EQ(options.at("data.max_length: 64"), needed(config, short_rows));
    EXPECT_EQ(options.size(), 5U);
    for (const auto& [setting, bytes] : options) EXPECT_LT(bytes, now) << setting;
}

TEST(MemoryOptions, follow_what_is_set) {
    RunConfig config = small_run();
    config.quantization.load_in_4bit = false;
    std::get<adapters::LoraConfig>(config.peft).modules_to_save = adapters::NameList{"lm_head"};
    auto options = options_of(config, nn::Recomputation::kLayers);
    EXPECT_FALSE(options.contains("training.gradient_checkpointing: true")) << "is so already";
    RunConfig changed = config;
    changed.quantization.load_in_4bit = true;
    EXPECT_EQ(options.at("quantization.load_in_4bit: true"),
              needed(changed, some_rows(), nn::Recomputation::kLayers));
    EXPECT_TRUE(options.contains("peft.modules_to_save: null"));

    config.data.max_tokens_per_batch = 400;
    std::get<adapters::LoraConfig>(config.peft).r = 1;
    options = options_of(config);
    EXPECT_TRUE(options.contains("data.max_tokens_per_batch: 200"));
    for (const auto& [setting, bytes] : options) {
        EXPECT_FALSE(setting.starts_with("training.per_device") || setting.starts_with("peft.r:")) << setting;
    }

    config.model.adapter = "somewhere";
    for (const auto& [setting, bytes] : options_of(config)) {
        EXPECT_FALSE(setting.starts_with("peft.")) << setting << ": an adapter's settings are what they are";
    }
}

std::vector<std::string> peft_options(const RunConfig& config, const models::DecoderSpec& model) {
    train::MemoryChoice choice;
    choice.request = memory_request(config, model, some_rows(), at::kCPU);
    std::vector<std::string> out;
    for (const train::MemoryOption& option : memory_options(config, model, some_rows(), choice)) {
        if (option.setting.starts_with("peft.")) out.push_back(option.setting);
    }
    return out;
}

TEST(MemoryOptions, name_the_linears_that_the_model_has) {
    const models::DecoderSpec gpt2 = models::parse_decoder_spec(
        {{"model_type", "gpt2"}, {"vocab_size", 300}, {"n_embd", 64}, {"n_layer", 2}, {"n_head", 4}},
        "config.json");
    EXPECT_EQ(peft_options(small_run(), gpt2),
              (std::vector<std::string>{"peft.r: 4", R"(peft.target_modules: ["c_attn"])"}));
}

TEST(MemoryOptions, what_contradicts_the_other_settings_is_none) {
    RunConfig config = small_run();
    std::get<adapters::LoraConfig>(config.peft).exclude_modules = adapters::NameList{"q_proj", "v_proj"};
    EXPECT_EQ(peft_options(config, small_llama()), std::vector<std::string>{"peft.r: 4"});
}

TEST(MemoryOptions, truncated_rows_stay_and_lose_their_end) {
    RunConfig config = small_run();
    config.data.overlong = data::Overlong::kTruncate;
    RowLengths cut;
    for (std::int64_t i = 20; i < 84; ++i) {
        const std::int64_t lost = std::max<std::int64_t>(0, i - 64);
        cut.tokens.push_back(i - lost);
        cut.supervised.push_back(i / 2 - lost);
    }
    EXPECT_EQ(options_of(config).at("data.max_length: 64"), needed(config, cut));
}

TEST(MemoryOptions, a_cache_can_be_left_out_where_there_is_one) {
    const RunConfig config = small_run();
    constexpr const char* kOption = "training.cache_dequantized: false";
    EXPECT_FALSE(options_of(config).contains(kOption));
    const auto options = options_of(config, nn::Recomputation::kNone, true);
    ASSERT_TRUE(options.contains(kOption));
    EXPECT_EQ(options.at(kOption), needed(config));
}

}  // namespace
}  // namespace qlora::cli
