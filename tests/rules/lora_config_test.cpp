#include "qlora/adapters/peft_config.h"

#include <gtest/gtest.h>

#include "qlora/core/error.h"

namespace qlora::adapters {
namespace {

LoraConfig lora_of(const std::string& fields) {
    const std::string more = fields.empty() ? "" : ", " + fields;
    return std::get<LoraConfig>(
        parse_adapter_config(parse_json(R"({"peft_type": "LORA")" + more + "}", "t"), "adapter_config.json"));
}

std::string lora_fault(const std::string& json) {
    try {
        parse_adapter_config(parse_json(json, "t"), "adapter_config.json");
    } catch (const CheckpointError& error) {
        return error.what();
    }
    return "no fault";
}

TEST(AdapterConfig, missing_fields_have_the_defaults_of_peft) {
    const LoraConfig config = lora_of("");
    EXPECT_EQ(config.r, 8);
    EXPECT_EQ(config.lora_alpha, 8);
    EXPECT_EQ(config.lora_dropout, 0);
    EXPECT_EQ(config.bias, BiasTraining::kNone);
    EXPECT_TRUE(std::holds_alternative<std::monostate>(config.target_modules));
    EXPECT_FALSE(config.task_type.has_value());
}

TEST(AdapterConfig, an_unknown_field_that_switches_nothing_on_is_passed_over) {
    for (const char* value : {"null", "false", "0", "0.0", "\"\"", "[]", "{}"}) {
        EXPECT_NO_THROW(lora_of(R"("a_later_feature": )" + std::string(value))) << value;
    }
}

TEST(AdapterConfig, an_unknown_field_that_switches_something_on_is_refused_by_name) {
    for (const char* value : {"true", "1", "\"x\"", "[0]", "{\"a\": null}"}) {
        const std::string fault =
            lora_fault(R"({"peft_type": "LORA", "a_later_feature": )" + std::string(value) + "}");
        EXPECT_NE(fault.find("a_later_feature: is not known to this version"), std::string::npos) << fault;
    }
}

TEST(AdapterConfig, what_only_describes_the_writer_is_ignored) {
    EXPECT_EQ(lora_of(R"("inference_mode": true, "peft_version": "0.99.0", "revision": "main",
                      "auto_mapping": {"base_model_class": "X"}, "fan_in_fan_out": true,
                      "runtime_config": {"ephemeral_gpu_offload": true})"),
              lora_of(""));
}

TEST(AdapterConfig, every_unbuilt_field_is_accepted_at_its_default_and_refused_otherwise) {
    std::size_t count = 0;
    for (const FieldInfo& info : list_fields<LoraConfig>()) {
        if (!info.fixed) continue;
        ++count;
        EXPECT_NO_THROW(lora_of("\"" + info.name + "\": " + info.default_text)) << info.name;
        const std::string fault = lora_fault("{\"peft_type\": \"LORA\", \"" + info.name + "\": {\"x\": 1}}");
        EXPECT_NE(fault.find(info.name + ": must be"), std::string::npos) << fault;
        EXPECT_NE(fault.find(info.help), std::string::npos) << fault;
    }
    EXPECT_EQ(count, 16U);
}

TEST(AdapterConfig, another_method_or_none_is_refused) {
    EXPECT_NE(lora_fault(R"({"peft_type": "VERA", "d_initial": 1})").find("peft_type"), std::string::npos);
    EXPECT_NE(lora_fault("{}").find("peft_type: is required"), std::string::npos);
    EXPECT_NE(lora_fault("[]").find("must be an object"), std::string::npos);
}

TEST(AdapterConfig, all_faults_come_together) {
    const std::string fault = lora_fault(
        R"({"peft_type": "LORA", "r": -1, "use_qalora": true, "novel": 1, "layers_pattern": "h"})");
    EXPECT_NE(fault.find("4 faults"), std::string::npos) << fault;
}

TEST(AdapterConfig, what_is_written_reads_back_equal) {
    LoraConfig config;
    config.r = 16;
    config.lora_alpha = 2.5;
    config.lora_dropout = 0.05;
    config.target_modules = std::string(R"(.*\.(q|v)_proj)");
    config.exclude_modules = NameList{"lm_head"};
    config.modules_to_save = NameList{"embed_tokens"};
    config.rank_pattern = {{"v_proj", 4}, {"a", 8}};
    config.alpha_pattern = {{"z", 1.5}, {"b", 8}};
    config.use_rslora = true;
    config.init_lora_weights = InitLoraWeights::kGaussian;
    config.bias = BiasTraining::kAll;
    config.base_model_name_or_path = "/models/\xC3\xA9t\xC3\xA9";
    const std::string text = adapter_config_text(config);
    EXPECT_EQ(parse_adapter_config(parse_json(text, "t"), "t"), PeftConfig(config));
    EXPECT_EQ(adapter_config_text(parse_adapter_config(parse_json(text, "t"), "t")), text);
}

TEST(AdapterConfig, keys_are_sorted_but_the_order_of_patterns_is_kept) {
    LoraConfig config;
    config.rank_pattern = {{"z", 1}, {"a", 2}};
    const Json json = parse_json(adapter_config_text(config), "t");
    std::string last;
    for (const auto& [key, value] : json.items()) {
        EXPECT_LT(last, key);
        last = key;
    }
    EXPECT_EQ(json["rank_pattern"].begin().key(), "z");
    EXPECT_EQ(json["inference_mode"], true);
    EXPECT_EQ(json["peft_version"], "0.21.2");
}

TEST(Differences, name_each_setting_with_both_values) {
    LoraConfig ours;
    LoraConfig theirs;
    EXPECT_TRUE(differences(ours, theirs).empty());
    ours.r = 16;
    ours.use_rslora = true;
    const auto found = differences(ours, theirs);
    ASSERT_EQ(found.size(), 2U);
    EXPECT_EQ(found[0], "r: 16 against 8");
    EXPECT_EQ(found[1], "use_rslora: true against false");
}

TEST(Differences, do_not_count_the_order_of_names_or_the_path_of_the_base) {
    LoraConfig ours;
    LoraConfig theirs;
    ours.target_modules = NameList{"q_proj", "v_proj"};
    theirs.target_modules = NameList{"v_proj", "q_proj", "q_proj"};
    theirs.base_model_name_or_path = "elsewhere";
    EXPECT_TRUE(differences(ours, theirs).empty());
}

TEST(Differences, count_the_order_of_patterns) {
    LoraConfig ours;
    LoraConfig theirs;
    ours.rank_pattern = {{"q", 1}, {"p", 2}};
    theirs.rank_pattern = {{"p", 2}, {"q", 1}};
    EXPECT_EQ(differences(ours, theirs).size(), 1U);
}

}  // namespace
}  // namespace qlora::adapters
