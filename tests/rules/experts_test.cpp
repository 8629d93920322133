#include <gtest/gtest.h>

#include <algorithm>

#include "adapters/target_parameters.h"
#include "qlora/core/error.h"
#include "qlora/models/decoder_spec.h"

namespace qlora {
namespace {

using models::DecoderSpec;
namespace spec = models::spec;

DecoderSpec described(const char* model_type, const Json& more = Json::object()) {
    Json config = {{"model_type", model_type},   {"vocab_size", 40},
                   {"hidden_size", 16},          {"intermediate_size", 24},
                   {"num_hidden_layers", 3},     {"num_attention_heads", 4},
                   {"num_key_value_heads", 2},   {"num_experts_per_tok", 2},
                   {"moe_intermediate_size", 8}, {"shared_expert_intermediate_size", 12}};
    config[std::string(model_type) == "mixtral" ? "num_local_experts" : "num_experts"] = 4;
    config.update(more);
    return models::parse_decoder_spec(config, "config.json");
}

const spec::Experts* experts_of(const DecoderSpec& decoder, std::size_t layer) {
    return std::get_if<spec::Experts>(&decoder.layers.at(layer).branches.back().block);
}

std::string fault_of(const auto& run) {
    try {
        run();
    } catch (const Error& error) {
        return error.what();
    }
    return {};
}

TEST(ExpertSpec, mixtral_has_its_names_and_always_renormalises) {
    const DecoderSpec decoder = described("mixtral");
    const spec::Experts* experts = experts_of(decoder, 1);
    ASSERT_NE(experts, nullptr);
    EXPECT_EQ(experts->experts.size(), 4U);
    EXPECT_EQ(experts->router.path, "model.layers.1.mlp.gate");
    EXPECT_EQ(experts->experts[3].entry[1].path, "model.layers.1.mlp.experts.3.w3");
    EXPECT_EQ(experts->experts[3].output.path, "model.layers.1.mlp.experts.3.w2");
    EXPECT_EQ(experts->experts[0].output.in, 24);
    EXPECT_TRUE(experts->renormalises);
    EXPECT_FALSE(experts->rounds_weights);
    EXPECT_EQ(decoder.renames.at(1).disk, "model.layers.1.block_sparse_moe.");
    EXPECT_EQ(decoder.ropes[0].frequencies.theta, 1e6);
}

TEST(ExpertSpec, some_layers_of_a_qwen_have_an_mlp) {
    const Json two = {{"mlp_only_layers", {0}}, {"decoder_sparse_step", 3}};
    for (const char* type : {"qwen2_moe", "qwen3_moe"}) {
        const DecoderSpec decoder = described(type, two);
        EXPECT_EQ(experts_of(decoder, 0), nullptr) << type;
        EXPECT_EQ(experts_of(decoder, 1), nullptr) << type;
        EXPECT_NE(experts_of(decoder, 2), nullptr) << type;
        EXPECT_EQ(std::get<spec::Mlp>(decoder.layers[0].branches[1].block).output.in, 24);
        EXPECT_EQ(experts_of(decoder, 2)->experts[0].output.in, 8);
    }
}

TEST(ExpertSpec, qwen2_moe_shares_an_expert_and_alternates_windows) {
    const DecoderSpec decoder = described(
        "qwen2_moe", {{"use_sliding_window", true}, {"sliding_window", 7}, {"max_window_layers", 2}});
    const spec::Experts* experts = experts_of(decoder, 0);
    ASSERT_TRUE(experts->shared);
    EXPECT_EQ(experts->shared->entry[0].path, "model.layers.0.mlp.shared_expert.gate_proj");
    EXPECT_EQ(experts->shared->output.in, 12);
    EXPECT_EQ(experts->shared_gate.path, "model.layers.0.mlp.shared_expert_gate");
    std::vector<std::int64_t> windows;
    for (const spec::Layer& layer : decoder.layers)
        windows.push_back(std::get<spec::Attention>(layer.branches[0].block).window);
    EXPECT_EQ(windows, (std::vector<std::int64_t>{7, 0, 0}));
    EXPECT_TRUE(std::get<spec::Attention>(decoder.layers[0].branches[0].block).entry[0].bias);
}

TEST(ExpertSpec, what_is_not_built_is_refused_by_name) {
    EXPECT_NE(fault_of([] {
                  described("mixtral", {{"router_jitter_noise", 0.1}});
              }).find("router_jitter_noise"),
              std::string::npos);
    EXPECT_NE(fault_of([] { described("olmoe", {{"clip_qkv", 8.0}}); }).find("clip_qkv"), std::string::npos);
    EXPECT_NE(fault_of([] {
                  described("olmoe", {{"num_experts_per_tok", 5}});
              }).find("more than the 4"),
              std::string::npos);
    EXPECT_NE(fault_of([] {
                  described("qwen3_moe", {{"mlp_only_layers", "0"}});
              }).find("mlp_only_layers"),
              std::string::npos);
}

TEST(ExpertSpec, the_routers_loss_is_the_configurations) {
    const DecoderSpec off = described("olmoe");
    EXPECT_FALSE(off.output_router_logits);
    EXPECT_EQ(off.router_aux_loss_coef, 0.01);
    EXPECT_EQ(described("qwen3_moe").router_aux_loss_coef, 0.001);
    EXPECT_TRUE(described("mixtral", {{"output_router_logits", true}}).output_router_logits);
    const DecoderSpec zeros =
        described("mixtral", {{"router_aux_loss_coef", 0.0}, {"router_jitter_noise", 0.0}});
    EXPECT_EQ(zeros.router_aux_loss_coef, 0.0);
}

/// The modules that matter here, as inject.cpp lists them.
adapters::AdaptableModel adaptable(const DecoderSpec& decoder) {
    adapters::AdaptableModel model{.model_type = decoder.model_type, .default_targets = decoder.lora_targets};
    for (const spec::Linear* linear : decoder.linears()) {
        if (linear->kind == spec::MatrixKind::kLinear)
            model.modules.push_back({.path = linear->path, .is_linear = true});
    }
    for (adapters::RawParameter& parameter : adapters::raw_parameters(decoder))
        model.parameters.push_back(std::move(parameter.info));
    model.former_linears = adapters::former_linears(decoder);
    return model;
}

adapters::LoraConfig lora(adapters::ModuleNames targets, std::optional<adapters::NameList> parameters = {}) {
    adapters::LoraConfig config;
    config.r = 4;
    config.lora_alpha = 12;
    config.target_modules = std::move(targets);
    config.target_parameters = std::move(parameters);
    return config;
}

std::vector<std::string> paths_of(const adapters::MatchResult& match) {
    std::vector<std::string> out;
    for (const adapters::Target& target : match.targets) out.push_back(target.path);
    return out;
}

TEST(ExpertTargets, all_linear_doubles_the_rank_of_gate_and_up) {
    const adapters::MatchResult match =
        adapters::match_targets(lora("all-linear"), adaptable(described("olmoe")));
    EXPECT_EQ(match.targets.size(), 3U * (4 + 3));
    for (const adapters::Target& target : match.targets) {
        EXPECT_EQ(target.r, target.path.ends_with("gate_up_proj") ? 8 : 4) << target.path;
        EXPECT_EQ(target.scaling, 3.0) << target.path;
    }
    EXPECT_EQ(match.expanded.target_parameters,
              (adapters::NameList{"down_proj", "gate.weight", "gate_up_proj"}));
    const auto* names = std::get_if<adapters::NameList>(&match.expanded.target_modules);
    ASSERT_NE(names, nullptr);
    EXPECT_EQ(*names, (adapters::NameList{"q_proj", "k_proj", "v_proj", "o_proj"}));
}

TEST(ExpertTargets, the_names_of_transformers_4_are_taken_together) {
    const DecoderSpec decoder = described("mixtral");
    const auto match = [&](adapters::NameList names) {
        return adapters::match_targets(lora(std::move(names)), adaptable(decoder));
    };
    EXPECT_EQ(match({"w1", "w3"}).targets.size(), 3U);
    EXPECT_EQ(match({"w2"}).targets.front().path, "model.layers.0.mlp.experts.down_proj");
    EXPECT_NE(fault_of([&] { match({"w1", "q_proj"}); }).find("name all of them"), std::string::npos);
    EXPECT_EQ(paths_of(adapters::match_targets({}, adaptable(decoder))).front(),
              "model.layers.0.self_attn.q_proj");
    EXPECT_NE(fault_of([&] { adapters::match_targets({}, adaptable(described("olmoe"))); }).find("o_proj"),
              std::string::npos)
        << "a type without a default lists the linears";
}

TEST(ExpertTargets, parameters_alone_are_matched_by_their_endings) {
    const DecoderSpec decoder = described("qwen3_moe");
    const auto match =
        adapters::match_targets(lora({}, adapters::NameList{"mlp.experts.down_proj"}), adaptable(decoder));
    EXPECT_EQ(paths_of(match).front(), "model.layers.0.mlp.experts.down_proj");
    EXPECT_EQ(match.targets.size(), 3U);
    EXPECT_NE(fault_of([&] {
                  adapters::match_targets(lora({}, adapters::NameList{"q_proj.weight"}), adaptable(decoder));
              }).find("mlp.experts.gate_up_proj"),
              std::string::npos);
    EXPECT_NE(fault_of([&] {
                  adapters::match_targets(lora(".*(down|up)_proj"), adaptable(decoder));
              }).find("target_parameters"),
              std::string::npos);
    adapters::LoraConfig dropped = lora("all-linear");
    dropped.lora_dropout = 0.1;
    EXPECT_NE(fault_of([&] { adapters::match_targets(dropped, adaptable(decoder)); }).find("lora_dropout"),
              std::string::npos);
}

TEST(ExpertTargets, qwen2_moe_adapts_its_linears_alone) {
    const adapters::MatchResult match =
        adapters::match_targets(lora("all-linear"), adaptable(described("qwen2_moe")));
    EXPECT_EQ(match.targets.size(), 3U * (4 + 4));
    EXPECT_FALSE(match.expanded.target_parameters);
}

TEST(ExpertParameters, parts_cover_all_experts) {
    const DecoderSpec decoder = described("qwen3_moe");
    const std::vector<adapters::RawParameter> parameters = adapters::raw_parameters(decoder);
    ASSERT_EQ(parameters.size(), 9U);
    const adapters::RawParameter& entry = parameters[1];
    EXPECT_EQ(entry.info.path, "model.layers.0.mlp.experts.gate_up_proj");
    EXPECT_EQ(entry.outer, "model.layers.0.mlp.experts.down_proj");
    EXPECT_EQ(entry.parts.size(), 8U);
    EXPECT_EQ(entry.parts[3].expert, 1);
    EXPECT_EQ(entry.parts[3].first_row, 8);
    EXPECT_EQ(entry.a_shape(2), (std::vector<std::int64_t>{8, 16}));
    EXPECT_EQ(entry.b_shape(2), (std::vector<std::int64_t>{16, 8}));
}

}  // namespace
}  // namespace qlora
