#include "qlora/adapters/peft_config.h"

#include <gtest/gtest.h>

#include <set>

#include "qlora/cli/run_config.h"

namespace qlora::adapters {
namespace {

std::set<std::string> keys_of(const PeftConfig& config) {
    std::set<std::string> keys;
    const Json json = parse_json(adapter_config_text(config), "t");
    for (const auto& [key, value] : json.items()) keys.insert(key);
    return keys;
}

std::set<std::string> joined(std::set<std::string> keys, const std::set<std::string>& more) {
    keys.insert(more.begin(), more.end());
    return keys;
}

/// The fields of peft 0.21.2, read off its to_dict().
const std::set<std::string> kCommon = {"auto_mapping",   "base_model_name_or_path",
                                       "inference_mode", "modules_to_save",
                                       "peft_type",      "peft_version",
                                       "revision",       "task_type"};
const std::set<std::string> kVirtual = joined(
    kCommon,
    {"num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens", "token_dim"});

TEST(PeftConfig, a_file_has_the_fields_of_peft) {
    EXPECT_EQ(keys_of(Ia3Config{}),
              joined(kCommon, {"exclude_modules", "fan_in_fan_out", "feedforward_modules", "init_ia3_weights",
                               "target_modules"}));
    EXPECT_EQ(keys_of(PromptTuningConfig{}),
              joined(kVirtual, {"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs",
                                "tokenizer_name_or_path"}));
    EXPECT_EQ(keys_of(PromptEncoderConfig{}),
              joined(kVirtual, {"encoder_dropout", "encoder_hidden_size", "encoder_num_layers",
                                "encoder_reparameterization_type"}));
    PrefixTuningConfig prefix;
    prefix.prefix_init_text = "ours alone";
    EXPECT_EQ(keys_of(prefix),
              joined(kVirtual, {"encoder_hidden_size", "init_weights", "prefix_projection"}));
}

TEST(PeftConfig, what_is_written_reads_back_equal) {
    Ia3Config ia3;
    ia3.target_modules = NameList{"k_proj", "down_proj"};
    ia3.feedforward_modules = NameList{"down_proj"};
    ia3.init_ia3_weights = false;
    PromptTuningConfig prompt;
    prompt.tokens = {.num_virtual_tokens = 5, .token_dim = 8, .num_layers = 2};
    prompt.prompt_tuning_init = PromptTuningInit::kText;
    prompt.prompt_tuning_init_text = "a text";
    PromptEncoderConfig encoder;
    encoder.tokens.num_virtual_tokens = 3;
    encoder.encoder_reparameterization_type = EncoderType::kLstm;
    encoder.encoder_dropout = 0.1;
    PrefixTuningConfig prefix;
    prefix.tokens = {.num_virtual_tokens = 3, .token_dim = 16};
    prefix.encoder_hidden_size = 16;  // as PEFT fills it in, without a projection too
    prefix.init_weights = PrefixStart::kZero;
    for (const PeftConfig& config :
         {PeftConfig(ia3), PeftConfig(prompt), PeftConfig(encoder), PeftConfig(prefix)}) {
        const std::string text = adapter_config_text(config);
        EXPECT_EQ(parse_adapter_config(parse_json(text, "t"), "t"), config) << text;
        EXPECT_EQ(adapter_config_text(parse_adapter_config(parse_json(text, "t"), "t")), text);
    }
}

TEST(PeftConfig, a_base_is_named_where_peft_wants_its_name) {
    PeftConfig plain = PromptTuningConfig{};
    name_base(plain, "group/name");
    EXPECT_EQ(base_name(plain), "group/name");
    EXPECT_FALSE(std::get<PromptTuningConfig>(plain).tokenizer_name_or_path);
    PromptTuningConfig text;
    text.prompt_tuning_init = PromptTuningInit::kText;
    text.base_model_name_or_path = "own";
    PeftConfig named = text;
    name_base(named, "group/name");
    EXPECT_EQ(base_name(named), "own");
    EXPECT_EQ(std::get<PromptTuningConfig>(named).tokenizer_name_or_path, "own");
}

TEST(PeftConfig, other_methods_are_different_adapters) {
    const std::vector<std::string> found = differences(Ia3Config{}, LoraConfig{});
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0], "peft_type: \"IA3\" against \"LORA\"");
    Ia3Config other;
    other.init_ia3_weights = false;
    EXPECT_EQ(differences(Ia3Config{}, other).size(), 1U);
}

cli::RunConfig run_of(const std::string& peft, const std::string& training = "") {
    const std::string text = R"({"model": {"path": "m"}, "peft": {)" + peft +
                             R"(}, "data": {"train": "t.jsonl"}, "training": {"output_dir": "o")" + training +
                             "}}";
    return cli::parse_run_config(parse_json(text, "run.json"), "/", "run.json");
}

TEST(PeftConfig, a_run_without_a_learning_rate_takes_that_of_its_method) {
    const std::string prompt = R"("peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4)";
    EXPECT_EQ(run_of("").training.learning_rate, LoraConfig::kLearningRate);
    EXPECT_EQ(run_of(prompt).training.learning_rate, PromptTuningConfig::kLearningRate);
    EXPECT_EQ(run_of(prompt, R"(, "learning_rate": 0.5)").training.learning_rate, 0.5);
}

TEST(PeftConfig, another_method_is_another_run) {
    const cli::RunConfig lora = run_of(""), ia3 = run_of(R"("peft_type": "IA3")");
    const std::vector<std::string> found = cli::resume_differences(lora, ia3);
    EXPECT_NE(std::find(found.begin(), found.end(), "peft.peft_type: \"LORA\" in the run, \"IA3\" now"),
              found.end());
    EXPECT_TRUE(cli::resume_differences(ia3, ia3).empty());
    EXPECT_EQ(cli::parse_run_config(cli::run_config_json(ia3), "/", "again").peft, ia3.peft);
}

TEST(PeftConfig, loraplus_is_refused_without_lora) {
    try {
        run_of(R"("peft_type": "IA3")", R"(, "loraplus_lr_ratio": 16)");
        FAIL() << "nothing was thrown";
    } catch (const ConfigError& error) {
        EXPECT_NE(std::string(error.what()).find("training.loraplus_lr_ratio: is a ratio"), std::string::npos)
            << error.what();
    }
}

}  // namespace
}  // namespace qlora::adapters
