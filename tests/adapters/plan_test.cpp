#include "qlora/adapters/plan.h"

#include <gtest/gtest.h>

#include "qlora/core/error.h"

namespace qlora::adapters {
namespace {

models::DecoderSpec with_experts() {
    return models::parse_decoder_spec({{"model_type", "qwen3_moe"},
                                       {"vocab_size", 40},
                                       {"hidden_size", 16},
                                       {"intermediate_size", 24},
                                       {"num_hidden_layers", 2},
                                       {"num_attention_heads", 4},
                                       {"num_key_value_heads", 2},
                                       {"num_experts_per_tok", 2},
                                       {"moe_intermediate_size", 8},
                                       {"num_experts", 4}},
                                      "config.json");
}

std::string fault_of(const PeftConfig& config) {
    try {
        plan_adapter(config, with_experts());
    } catch (const ConfigError& error) {
        return error.what();
    }
    return "";
}

/// "all-linear" takes them in, which a check of the configuration alone cannot see.
TEST(Plan, what_adapters_on_experts_and_routers_cannot_have_is_refused) {
    LoraConfig config;
    config.target_modules = "all-linear";
    EXPECT_EQ(fault_of(config), "");
    config.use_dora = true;
    EXPECT_EQ(fault_of(config).find("use_dora cannot be combined with adapters on experts or routers"), 0U);
    config.use_dora = false;
    config.lora_bias = true;
    EXPECT_EQ(fault_of(config).find("lora_bias cannot be combined"), 0U);
    config.target_modules = NameList{"q_proj"};
    EXPECT_EQ(fault_of(config), "");
}

TEST(Plan, a_factor_on_a_shared_input_is_one_fault_for_each_kind) {
    Ia3Config config;
    config.target_modules = NameList{"q_proj", "k_proj", "o_proj"};
    config.feedforward_modules = NameList{"q_proj", "k_proj", "o_proj"};
    const std::string fault = fault_of(config);
    EXPECT_NE(fault.find("2 faults"), std::string::npos) << fault;
    EXPECT_NE(
        fault.find("q_proj reads its input together with other layers (model.layers.0.self_attn.q_proj"),
        std::string::npos)
        << fault;
}

TEST(Plan, an_mlp_says_that_it_has_two_layers) {
    PromptEncoderConfig config;
    config.tokens.num_virtual_tokens = 3;
    EXPECT_TRUE(plan_adapter(config, with_experts()).warnings.empty());
    config.encoder_num_layers = 4;
    EXPECT_EQ(plan_adapter(config, with_experts()).warnings.size(), 1U);
    config.encoder_reparameterization_type = EncoderType::kLstm;
    EXPECT_TRUE(plan_adapter(config, with_experts()).warnings.empty());
}

}  // namespace
}  // namespace qlora::adapters
