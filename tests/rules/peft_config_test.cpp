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

/// Those of AdapterHub's BnConfig, read off to_dict() of adapters 1.3.0.
TEST(PeftConfig, a_file_of_bottlenecks_has_the_fields_of_adapterhub) {
    const std::set<std::string> fields = {"adapter_residual_before_ln",
                                          "cross_adapter",
                                          "dropout",
                                          "factorized_phm_W",
                                          "factorized_phm_rule",
                                          "hypercomplex_nonlinearity",
                                          "init_weights",
                                          "init_weights_seed",
                                          "inv_adapter",
                                          "inv_adapter_reduction_factor",
                                          "is_parallel",
                                          "learn_phm",
                                          "leave_out",
                                          "ln_after",
                                          "ln_before",
                                          "mh_adapter",
                                          "non_linearity",
                                          "original_ln_after",
                                          "original_ln_before",
                                          "output_adapter",
                                          "phm_bias",
                                          "phm_c_init",
                                          "phm_dim",
                                          "phm_init_range",
                                          "phm_layer",
                                          "phm_rank",
                                          "reduction_factor",
                                          "residual_before_ln",
                                          "scaling",
                                          "shared_W_phm",
                                          "shared_phm_rule",
                                          "stochastic_depth",
                                          "use_gating"};
    EXPECT_EQ(keys_of(BottleneckConfig{}),
              (std::set<std::string>{"config", "hidden_size", "model_class", "model_name", "model_type",
                                     "name", "version"}));
    const Json written = parse_json(adapter_config_text(BottleneckConfig{}), "t").at("config");
    std::set<std::string> found;
    for (const auto& [key, value] : written.items()) found.insert(key);
    EXPECT_EQ(found, fields);
}

TEST(PeftConfig, a_kind_of_bottleneck_decides_what_is_not_given) {
    BottleneckConfig given, said;
    given.config = said.config = BottleneckKind::kPar;
    said.reduction_factor.emplace(2.0);
    said.non_linearity = NonLinearity::kRelu;
    said.scaling.emplace(4.0);
    said.init_weights = BottleneckInit::kMamAdapter;
    said.is_parallel = true;
    EXPECT_TRUE(differences(given, said).empty());
    said.scaling->value = 3.0;
    EXPECT_EQ(differences(given, said), std::vector<std::string>{"scaling: 4.0 against 3.0"});
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
    BottleneckConfig bottleneck;
    bottleneck.task_type.reset();  // AdapterHub's file does not say it
    bottleneck.config = BottleneckKind::kDoubleSeq;
    bottleneck.reduction_factor.emplace(2.5);
    bottleneck.leave_out = {0, 3};
    bottleneck.dropout = 0.1;
    bottleneck.hidden_size = 32;
    bottleneck.model_type = "llama";
    bottleneck.model_class = "LlamaForCausalLM";
    bottleneck.base_model_name_or_path = "group/name";
    for (const PeftConfig& config : {PeftConfig(ia3), PeftConfig(prompt), PeftConfig(encoder),
                                     PeftConfig(prefix), PeftConfig(completed(bottleneck))}) {
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

TEST(PeftConfig, the_rate_of_an_embedding_is_refused_without_loraplus) {
    const std::string embedding = R"(, "loraplus_lr_embedding": 1e-3)";
    EXPECT_EQ(run_of("", R"(, "loraplus_lr_ratio": 4)").training.loraplus_embedding_rate(), 1e-6);
    EXPECT_EQ(run_of("", embedding + R"(, "loraplus_lr_ratio": 4)").training.loraplus_embedding_rate(), 1e-3);
    EXPECT_THROW(run_of("", embedding), ConfigError);
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
