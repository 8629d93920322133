#include "qlora/adapters/target_matching.h"

#include <gtest/gtest.h>

#include <cmath>

#include "qlora/core/error.h"

namespace qlora::adapters {
namespace {

// Two layers of a llama: all modules, containers too. PEFT itself is the reference of the peer test; here
// stand what it has no word for: messages, warnings, the saved form.
AdaptableModel llama(int layers = 2) {
    AdaptableModel model{.model_type = "llama", .modules = {}, .default_targets = {"q_proj", "v_proj"}};
    std::vector<ModuleInfo>& modules = model.modules;
    const auto add = [&](const std::string& path) -> ModuleInfo& {
        modules.push_back({});
        modules.back().path = path;
        return modules.back();
    };
    add("model");
    add("model.embed_tokens").is_embedding = true;
    add("model.layers");
    for (int i = 0; i < layers; ++i) {
        const std::string layer = "model.layers." + std::to_string(i);
        add(layer);
        add(layer + ".self_attn");
        for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"})
            add(layer + ".self_attn." + name).is_linear = true;
        add(layer + ".mlp");
        for (const char* name : {"gate_proj", "up_proj", "down_proj"})
            add(layer + ".mlp." + name).is_linear = true;
        add(layer + ".input_layernorm").is_norm = true;
    }
    add("model.norm").is_norm = true;
    ModuleInfo& head = add("lm_head");
    head.is_linear = true;
    head.is_output_embedding = true;
    return model;
}

LoraConfig with_targets(ModuleNames names) {
    LoraConfig config;
    config.target_modules = std::move(names);
    return config;
}

std::string target_fault(const LoraConfig& config, const AdaptableModel& model = llama()) {
    try {
        match_targets(config, model);
    } catch (const ConfigError& error) {
        return error.what();
    }
    return "no fault";
}

TEST(MatchTargets, default_is_query_and_value_and_saved_as_names) {
    const MatchResult result = match_targets(LoraConfig{}, llama());
    ASSERT_EQ(result.targets.size(), 4U);
    EXPECT_EQ(result.targets[0].path, "model.layers.0.self_attn.q_proj");
    EXPECT_EQ(result.targets[0].r, 8);
    EXPECT_EQ(result.targets[0].scaling, 1.0);
    EXPECT_EQ(std::get<NameList>(result.expanded.target_modules), (NameList{"q_proj", "v_proj"}));
}

TEST(MatchTargets, an_architecture_without_default_needs_names) {
    AdaptableModel model = llama();
    model.model_type = "phi3";
    model.default_targets.clear();
    EXPECT_NE(
        target_fault(LoraConfig{}, model)
            .find("target_modules: is missing, and PEFT has no default for the architecture \"phi3\"; name "
                  "some of its linears (q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj) or "
                  "\"all-linear\""),
        std::string::npos)
        << target_fault(LoraConfig{}, model);
}

TEST(MatchTargets, all_linear_leaves_the_head_out_and_is_saved_as_names) {
    const MatchResult small = match_targets(with_targets("all-linear"), llama(2));
    EXPECT_EQ(small.targets.size(), 14U);
    EXPECT_EQ(std::get<NameList>(small.expanded.target_modules).size(), 14U);
    const MatchResult large = match_targets(with_targets("all-linear"), llama(30));
    EXPECT_EQ(large.targets.size(), 210U);
    EXPECT_EQ(std::get<NameList>(large.expanded.target_modules).size(), 7U);
}

TEST(MatchTargets, rslora_divides_by_the_root_of_the_rank) {
    LoraConfig config;
    config.r = 16;
    config.lora_alpha = 32;
    config.use_rslora = true;
    EXPECT_EQ(match_targets(config, llama()).targets[0].scaling, 8.0);
    config.r = 7;
    EXPECT_EQ(match_targets(config, llama()).targets[0].scaling, 32 / std::sqrt(7.0));
}

TEST(MatchTargets, each_name_of_a_list_must_fit_and_the_near_ones_are_listed) {
    const std::string fault = target_fault(with_targets(NameList{"q_proj", "vproj", "query"}));
    EXPECT_NE(fault.find("2 faults"), std::string::npos) << fault;
    EXPECT_NE(fault.find("\"vproj\" matches no module of the model; did you mean \"v_proj\""),
              std::string::npos)
        << fault;
    EXPECT_NE(
        fault.find("\"query\" matches no module of the model; its linear layers are named q_proj, k_proj"),
        std::string::npos)
        << fault;
}

TEST(MatchTargets, a_string_that_is_only_an_ending_is_explained) {
    const std::string fault = target_fault(with_targets("q_proj"));
    EXPECT_NE(fault.find("must match a whole path such as model.layers.0.self_attn.q_proj"),
              std::string::npos)
        << fault;
    EXPECT_NE(fault.find("[\"q_proj\"]"), std::string::npos) << fault;
    const std::string joined = target_fault(with_targets("q_proj,v_proj"));
    EXPECT_NE(joined.find("use a list, [\"q_proj\", \"v_proj\"]"), std::string::npos) << joined;
    const std::string all = target_fault(with_targets("all"));
    EXPECT_NE(all.find("did you mean \"all-linear\"?"), std::string::npos) << all;
}

AdaptableModel with_tables(bool tied = false) {
    AdaptableModel model = llama();
    model.tables = true;
    model.tied = tied;
    return model;
}

std::vector<std::string> paths_of(const MatchResult& result) {
    std::vector<std::string> out;
    for (const Target& target : result.targets) out.push_back(target.path);
    return out;
}

TEST(MatchTargets, head_and_embedding_are_targets_where_the_method_can_adapt_them) {
    EXPECT_NE(target_fault(with_targets(NameList{"q_proj", "lm_head"})).find("adapting lm_head is not built"),
              std::string::npos);
    const MatchResult result = match_targets(with_targets(".*(embed_tokens|lm_head)"), with_tables());
    EXPECT_EQ(paths_of(result), (std::vector<std::string>{"model.embed_tokens", "lm_head"}));
    EXPECT_TRUE(result.targets[0].is_embedding && result.targets[1].is_head);
    EXPECT_TRUE(result.warnings.empty());
    const MatchResult all = match_targets(with_targets("all-linear"), with_tables());
    EXPECT_EQ(all.targets.size(), 14U) << "all-linear leaves the head out";
}

TEST(MatchTargets, what_cannot_be_on_a_table_is_refused_by_name) {
    LoraConfig config = with_targets(NameList{"embed_tokens", "q_proj"});
    config.lora_bias = true;
    EXPECT_NE(target_fault(config, with_tables()).find("lora_bias cannot be used on an embedding"),
              std::string::npos);
    config = with_targets(NameList{"lm_head"});
    config.use_dora = true;
    EXPECT_NE(target_fault(config, with_tables()).find("use_dora is not built for lm_head"),
              std::string::npos);
}

TEST(MatchTargets, tied_tables_stay_apart_unless_tying_is_ensured) {
    LoraConfig config = with_targets(NameList{"lm_head", "q_proj"});
    const MatchResult apart = match_targets(config, with_tables(true));
    EXPECT_EQ(paths_of(apart).size(), 3U);
    ASSERT_EQ(apart.warnings.size(), 1U);
    EXPECT_NE(apart.warnings[0].find("ensure_weight_tying"), std::string::npos);

    config.ensure_weight_tying = true;
    config.rank_pattern = {{"q_proj", 3}};
    const MatchResult shared = match_targets(config, with_tables(true));
    EXPECT_TRUE(shared.shares_tables);
    EXPECT_EQ(shared.targets.front().path, "model.embed_tokens");
    EXPECT_EQ(shared.targets.back().path, "lm_head");
    EXPECT_EQ(std::get<NameList>(shared.expanded.target_modules), (NameList{"q_proj", "model.embed_tokens"}));
    EXPECT_TRUE(shared.warnings.empty());

    config.rank_pattern = {{"lm_head", 3}};
    EXPECT_NE(target_fault(config, with_tables(true)).find("another r than the embedding"),
              std::string::npos);
    config.rank_pattern.clear();
    config.exclude_modules = NameList{"embed_tokens"};
    EXPECT_NE(target_fault(config, with_tables(true)).find("the embedding is left out"), std::string::npos);
    EXPECT_FALSE(match_targets(config, with_tables(false)).shares_tables) << "this model ties nothing";
}

TEST(MatchTargets, what_is_no_linear_layer_is_refused_by_name) {
    EXPECT_NE(target_fault(with_targets(NameList{"mlp"}))
                  .find("model.layers.0.mlp is matched but is not a linear layer"),
              std::string::npos);
}

TEST(MatchTargets, everything_excluded_is_a_fault) {
    LoraConfig config = with_targets(NameList{"q_proj"});
    config.exclude_modules = std::string(".*");
    EXPECT_NE(target_fault(config).find("no module is left to adapt; check exclude_modules"),
              std::string::npos);
}

TEST(MatchTargets, a_layer_that_does_not_exist_is_a_fault) {
    LoraConfig config = with_targets(NameList{"q_proj"});
    config.layers_to_transform = std::vector<std::int64_t>{1, 2};
    EXPECT_NE(target_fault(config).find("there is no layer 2; the targets' layers are numbered 0 to 1"),
              std::string::npos)
        << target_fault(config);
}

TEST(MatchTargets, an_expression_that_takes_exponential_time_is_refused) {
    const std::string fault = target_fault(with_targets("(([a-z0-9_.])+)+[#$]"));
    EXPECT_NE(fault.find("takes too long"), std::string::npos) << fault;
}

TEST(MatchTargets, modules_to_save_must_exist_and_have_a_weight) {
    LoraConfig config;
    config.modules_to_save = NameList{"lm_haed", "self_attn"};
    const std::string fault = target_fault(config);
    EXPECT_NE(fault.find("\"lm_haed\" matches no module of the model; did you mean \"lm_head\"?"),
              std::string::npos)
        << fault;
    EXPECT_NE(fault.find("model.layers.0.self_attn has no weight of its own"), std::string::npos) << fault;
}

TEST(MatchTargets, a_module_cannot_be_adapted_and_trained_whole) {
    LoraConfig config = with_targets(NameList{"q_proj", "v_proj"});
    config.modules_to_save = NameList{"_proj"};
    EXPECT_NE(target_fault(config).find("q_proj is adapted by target_modules too"), std::string::npos)
        << target_fault(config);
}

TEST(MatchTargets, an_ending_inside_a_name_is_warned_of) {
    LoraConfig config;
    config.modules_to_save = NameList{"norm"};
    const MatchResult result = match_targets(config, llama());
    EXPECT_EQ(result.modules_to_save,
              (NameList{"model.layers.0.input_layernorm", "model.layers.1.input_layernorm", "model.norm"}));
    ASSERT_EQ(result.warnings.size(), 1U);
    EXPECT_NE(result.warnings[0].find("model.layers.0.input_layernorm"), std::string::npos)
        << result.warnings[0];
}

TEST(MatchTargets, clashing_and_idle_pattern_keys_are_warned_of) {
    LoraConfig config;
    config.rank_pattern = {{"v_proj", 2}, {"(q|v)_proj", 4}, {"o_proj", 5}};
    config.alpha_pattern = {{"v_proj", 2}, {".*v_proj", 2}};
    const MatchResult result = match_targets(config, llama());
    EXPECT_EQ(result.targets[0].r, 4);
    EXPECT_EQ(result.targets[1].r, 2);
    ASSERT_EQ(result.warnings.size(), 2U);
    EXPECT_EQ(result.warnings[0], "rank_pattern: \"o_proj\" matches no adapted module");
    EXPECT_NE(result.warnings[1].find("\"v_proj\" and \"(q|v)_proj\" give different values to "
                                      "model.layers.0.self_attn.v_proj"),
              std::string::npos)
        << result.warnings[1];
}

TEST(MatchTargets, an_exclusion_that_fits_nothing_is_warned_of) {
    LoraConfig config;
    config.exclude_modules = NameList{"k_prj"};
    EXPECT_EQ(match_targets(config, llama()).warnings.size(), 1U);
    config.exclude_modules = std::string("k_proj");
    EXPECT_EQ(match_targets(config, llama()).warnings.size(), 1U);
    config.exclude_modules = std::string(".*k_proj");
    EXPECT_TRUE(match_targets(config, llama()).warnings.empty());
}

}  // namespace
}  // namespace qlora::adapters
