#include "models/rope_config.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "qlora/core/error.h"
#include "support/tiny_model.h"

namespace qlora::models {
namespace {

using qlora::test::TinyModel;

constexpr RopeSizes kSizes{.head_dim = 16, .max_positions = 256};

struct Reading {
    spec::Rope rope;
    std::vector<std::string> faults;
};
Reading reading(const Json& json, const RopeDefaults& defaults = {}) {
    FaultList faults;
    ConfigReader config(json, faults);
    const spec::Rope rope = read_rope(config, kSizes, defaults);
    return {rope, faults.faults()};
}

struct LayerTypesReading {
    RopesByLayerType ropes;
    std::vector<std::string> faults;
};
LayerTypesReading by_layer_type(const Json& json, const LayerTypeDefaults& defaults) {
    FaultList faults;
    ConfigReader config(json, faults);
    const RopesByLayerType ropes = read_ropes_by_layer_type(config, kSizes, defaults);
    return {ropes, faults.faults()};
}

/// Exactly one fault a part, in any order.
void expect_faults(const std::vector<std::string>& faults, const std::vector<std::string>& parts) {
    EXPECT_EQ(faults.size(), parts.size()) << testing::PrintToString(faults);
    for (const std::string& part : parts) {
        EXPECT_EQ(
            std::count_if(faults.begin(), faults.end(),
                          [&](const std::string& fault) { return fault.find(part) != std::string::npos; }),
            1)
            << part << " in " << testing::PrintToString(faults);
    }
}

Json ones(std::size_t count) {
    return std::vector<double>(count, 1.0);
}

/// Values of transformers 5.24.
TEST(RopeConfig, a_rope_scaling_that_says_anything_replaces_rope_parameters) {
    const auto rope = [](const Json& scaling, const Json& more = Json::object()) {
        Json json = TinyModel{}.config();
        json["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 5e5}};
        json["rope_scaling"] = scaling;
        json.erase("rope_theta");
        json.update(more);
        return parse_decoder_spec(json, "config.json").ropes[0].frequencies;
    };
    for (const Json& nothing : {Json(nullptr), Json::object()}) {
        EXPECT_EQ(rope(nothing).factor, 2.0);
        EXPECT_EQ(rope(nothing).theta, 5e5);
    }
    const Json linear = {{"type", "linear"}, {"factor", 4.0}};
    EXPECT_EQ(rope(linear).factor, 4.0);
    EXPECT_EQ(rope(linear).theta, 1e4) << "the theta of what is replaced is lost with it";
    EXPECT_EQ(rope(linear, {{"rope_theta", 2e4}}).theta, 2e4);
    EXPECT_EQ(rope({{"factor", 4.0}}).type, RopeType::kDefault);

    const Json llama3 = {{"rope_type", "llama3"},
                         {"factor", 8.0},
                         {"low_freq_factor", 1.0},
                         {"high_freq_factor", 4.0},
                         {"original_max_position_embeddings", 1024}};
    EXPECT_EQ(rope(llama3).original_max_position_embeddings, 1024);
    EXPECT_EQ(rope(llama3, {{"original_max_position_embeddings", 2048}}).original_max_position_embeddings,
              2048)
        << "the one beside the section wins";
}

TEST(RopeConfig, old_and_new_spellings_of_rope_agree) {
    const Json scaling = {{"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 64}};
    Json fresh = TinyModel{}.config(), old = fresh;
    fresh["rope_parameters"] = scaling;
    fresh["rope_parameters"]["rope_type"] = "llama3";
    fresh["rope_parameters"]["rope_theta"] = 500000.0;
    old.erase("rope_parameters");
    old["rope_theta"] = 500000.0;
    old["rope_scaling"] = scaling;
    old["rope_scaling"]["type"] = "llama3";
    for (const Json& json : {fresh, old}) {
        const RopeConfig rope = parse_decoder_spec(json, "config.json").ropes[0].frequencies;
        EXPECT_EQ(rope.type, RopeType::kLlama3);
        EXPECT_EQ(rope.theta, 500000.0);
        EXPECT_EQ(rope.factor, 8.0);
        EXPECT_EQ(rope.low_freq_factor, 1.0);
        EXPECT_EQ(rope.high_freq_factor, 4.0);
        EXPECT_EQ(rope.original_max_position_embeddings, 64);
    }
}

TEST(RopeConfig, what_an_architecture_has_beside_its_section) {
    const RopeDefaults neox{.theta_key = "rotary_emb_base", .partial = 0.25, .partial_key = "rotary_pct"};
    EXPECT_EQ(reading(Json::object(), neox).rope.dims, 4);
    const Json keys = {
        {"rope_theta", 5.0}, {"rotary_emb_base", 7.0}, {"rotary_pct", 0.5}, {"partial_rotary_factor", 0.75}};
    EXPECT_EQ(reading(keys, neox).rope.dims, 8);
    EXPECT_EQ(reading(keys, neox).rope.frequencies.theta, 7.0);
    const Json section = {{"partial_rotary_factor", 1.0}, {"rope_theta", 9.0}};
    EXPECT_EQ(reading({{"rotary_pct", 0.5}, {"rope_parameters", section}}, neox).rope.dims, 16);
    EXPECT_TRUE(reading(Json::object(), {.pairs = true}).rope.pairs);
}

/// ministral3's, whose query scale is 1 up to there.
TEST(RopeConfig, a_whole_section_may_be_the_default_and_end_where_queries_are_scaled) {
    const RopeDefaults defaults{.scales_queries = true,
                                .section = {{"type", "yarn"},
                                            {"rope_theta", 1e6},
                                            {"factor", 16.0},
                                            {"original_max_position_embeddings", 64},
                                            {"llama_4_scaling_beta", 0.1}}};
    const Reading whole = reading(Json::object(), defaults);
    expect_faults(whole.faults, {});
    EXPECT_EQ(whole.rope.frequencies.type, RopeType::kYarn);
    EXPECT_EQ(whole.rope.frequencies.theta, 1e6);
    EXPECT_EQ(whole.rope.frequencies.most_positions, 64);
    EXPECT_NE(whole.rope.frequencies.beyond.find("llama_4_scaling_beta"), std::string::npos);
    const Json linear = {{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}};
    EXPECT_EQ(reading(linear, defaults).rope.frequencies.theta, 1e4)
        << "nothing of the default section stays";
    EXPECT_EQ(reading(linear, defaults).rope.frequencies.most_positions, 0);
}

TEST(RopeConfig, only_some_rows_are_refused) {
    DecoderSpec decoder = parse_decoder_spec(TinyModel{}.config(), "c");
    EXPECT_FALSE(position_limit(decoder));
    Json json = TinyModel{}.config();
    json["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
    decoder = parse_decoder_spec(json, "c");
    EXPECT_EQ(position_limit(decoder).value().tokens, 256);
    EXPECT_NE(position_limit(decoder)->reason.find("dynamic"), std::string::npos);
    decoder.positions = "model.positions";
    decoder.max_position_embeddings = 100;
    EXPECT_EQ(position_limit(decoder).value().tokens, 100);
    EXPECT_NE(position_limit(decoder)->reason.find("learned"), std::string::npos);
}

TEST(RopeConfig, longrope_turns_long_sequences_by_factors_of_their_own) {
    Json json = TinyModel{}.config();
    json["rope_scaling"] = {{"type", "longrope"},
                            {"short_factor", ones(4)},
                            {"long_factor", ones(4)},
                            {"original_max_position_embeddings", 64}};
    const DecoderSpec decoder = parse_decoder_spec(json, "c");
    EXPECT_EQ(LongropeEdges(decoder).passed(64), 0U);
    EXPECT_EQ(LongropeEdges(decoder).passed(65), 1U);
    EXPECT_EQ(trained_positions(decoder), 256);
}

TEST(RopeConfig, positions_count_what_a_scaling_adds) {
    const auto positions = [](const Json& scaling) {
        Json json = TinyModel{}.config();
        json["max_position_embeddings"] = 4096;
        json["rope_scaling"] = scaling;
        return trained_positions(parse_decoder_spec(json, "config.json"));
    };
    Json llama3 = {
        {"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}};
    EXPECT_EQ(positions(nullptr), 4096);
    EXPECT_EQ(positions({{"rope_type", "linear"}, {"factor", 4.0}}), 4096);
    EXPECT_EQ(positions({{"rope_type", "dynamic"}, {"factor", 4.0}}), 4096);
    EXPECT_EQ(positions(llama3), 32768) << "max_position_embeddings is what it was before the scaling";
    llama3["original_max_position_embeddings"] = 256;
    EXPECT_EQ(positions(llama3), 4096) << "as Llama 3.1's own file has it";
    llama3["factor"] = 1e300;
    EXPECT_EQ(positions(llama3), 1'000'000'000);
    const Json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 4096}};
    EXPECT_EQ(positions(yarn), 16384) << "as the Qwen models' cards tell to switch it on";
}

/// Values of transformers 5.24.
TEST(RopeConfig, layer_types_have_ropes_of_their_own) {
    const LayerTypeDefaults gemma3{
        .full_theta = 1e6, .sliding_theta = 1e4, .sliding_theta_key = "rope_local_base_freq"};
    const LayerTypeDefaults olmo3{.full_theta = 5e5, .sliding_theta = 5e5};
    const auto thetas = [](const LayerTypesReading& read) {
        expect_faults(read.faults, {});
        return std::pair{read.ropes.full.frequencies.theta, read.ropes.sliding.frequencies.theta};
    };
    const Json beside = {{"rope_theta", 5.0}, {"rope_local_base_freq", 7.0}};
    EXPECT_EQ(thetas(by_layer_type(Json::object(), gemma3)), std::pair(1e6, 1e4));
    EXPECT_EQ(thetas(by_layer_type(beside, gemma3)), std::pair(5.0, 7.0));
    EXPECT_EQ(thetas(by_layer_type(beside, olmo3)), std::pair(5.0, 5e5));
    Json nested = beside;
    nested["rope_parameters"] = {{"full_attention", {{"rope_theta", 11.0}}},
                                 {"sliding_attention", {{"rope_theta", 13.0}}}};
    EXPECT_EQ(thetas(by_layer_type(nested, gemma3)), std::pair(11.0, 13.0));
    nested["rope_parameters"]["sliding_attention"] = nullptr;
    EXPECT_EQ(thetas(by_layer_type(nested, olmo3)), std::pair(11.0, 5e5));

    Json scaled = beside;
    scaled["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
    const RopesByLayerType ropes = by_layer_type(scaled, gemma3).ropes;
    EXPECT_EQ(ropes.full.frequencies.type, RopeType::kLinear);
    EXPECT_EQ(ropes.full.frequencies.factor, 8.0);
    EXPECT_EQ(ropes.full.frequencies.theta, 5.0);
    EXPECT_EQ(ropes.sliding.frequencies.type, RopeType::kDefault);

    // Within a section its own original positions count, and truncate beside the sections.
    const Json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"truncate", false}};
    Json of_yarn = {{"original_max_position_embeddings", 64},
                    {"rope_parameters", {{"full_attention", yarn}}}};
    EXPECT_EQ(by_layer_type(of_yarn, olmo3).ropes.full.frequencies.original_max_position_embeddings, 256);
    EXPECT_TRUE(by_layer_type(of_yarn, olmo3).ropes.full.frequencies.truncate);
    of_yarn["rope_parameters"]["truncate"] = false;
    EXPECT_FALSE(by_layer_type(of_yarn, olmo3).ropes.full.frequencies.truncate);
}

TEST(RopeConfig, faults_of_layer_types_have_names) {
    const LayerTypeDefaults any;
    expect_faults(
        by_layer_type({{"rope_parameters", {{"rope_type", "linear"}, {"factor", 2.0}}}}, any).faults,
        {"rope_parameters.rope_type: must stand in", "rope_parameters.factor: must stand in"});
    expect_faults(by_layer_type({{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}, any).faults,
                  {"rope_scaling.type: must be named rope_type"});
    expect_faults(by_layer_type({{"rope_scaling", "linear"}}, any).faults,
                  {"rope_scaling: must be an object"});
    expect_faults(by_layer_type({{"rope_parameters", 3}}, any).faults,
                  {"rope_parameters: must be an object"});
    expect_faults(
        by_layer_type({{"rope_parameters",
                        {{"full_attention", {{"rope_type", "yarn"}}}, {"sliding_attention", "none"}}}},
                      any)
            .faults,
        {"rope_parameters.full_attention.factor: is missing",
         "rope_parameters.sliding_attention: must be an object"});
}

TEST(RopeConfig, what_cannot_be_read_is_refused_by_name) {
    const auto faults = [](const Json& section, const RopeDefaults& defaults = {}) {
        return reading({{"rope_scaling", section}}, defaults).faults;
    };
    const auto typed = [](const char* type, const Json& more) {
        Json section = {{"rope_type", type}};
        section.update(more);
        return section;
    };
    expect_faults(faults({{"type", "axial"}}),
                  {"rope_scaling.rope_type: 'axial' is not supported; supported are "
                   "default, linear, dynamic, llama3, yarn, longrope"});
    expect_faults(faults({{"type", "su"}}), {"'su' is not supported"});
    expect_faults(faults({{"type", 3}}), {"rope_scaling.type: must be a string"});
    expect_faults(faults("linear"), {"rope_scaling: must be an object or null"});
    for (const char* type : {"linear", "dynamic", "yarn"})
        expect_faults(faults({{"rope_type", type}}), {"rope_scaling.factor: is missing"});
    expect_faults(faults(typed("linear", {{"factor", -2.0}})), {"rope_scaling.factor: must be a positive"});
    expect_faults(faults(typed("llama3", {{"factor", 8.0}})),
                  {"low_freq_factor: is missing", "high_freq_factor: is missing"});
    expect_faults(
        faults(typed("llama3", {{"factor", 8.0}, {"low_freq_factor", 1}, {"high_freq_factor", 1.0}})),
        {"rope_scaling.high_freq_factor: must be greater"});
    expect_faults(faults(typed("yarn", {{"factor", 2.0}, {"beta_fast", 1}, {"beta_slow", 2}})),
                  {"beta_fast: must not be less"});
    expect_faults(
        faults(typed("yarn", {{"factor", 2.0}, {"rope_theta", 1.0}, {"mscale", -1}, {"truncate", 0}})),
        {"rope_theta: must be greater than 1", "mscale: must be", "truncate: must be true or false"});
    expect_faults(faults(typed("longrope", {{"short_factor", ones(7)}})),
                  {"short_factor: must list 8 positive numbers, one for each angle of a head, not 7",
                   "long_factor: is missing"});
    Json negative = ones(8);
    negative[3] = -1.0;
    expect_faults(
        faults(typed("longrope", {{"short_factor", negative}, {"long_factor", 2.0}})),
        {"short_factor: must list 8 positive numbers, one for each angle of a head; 1 of them are not",
         "long_factor: must list 8 positive numbers"});
    expect_faults(faults({{"rope_theta", 0}}), {"rope_scaling.rope_theta"});
    expect_faults(faults({{"full_attention", {{"rope_theta", 1e6}}}}),
                  {"rope_scaling.full_attention: a rotary"});

    const RopeDefaults phi3{.partial = 1.0, .only_longrope = true};
    expect_faults(faults(typed("linear", {{"factor", 2.0}}), phi3),
                  {"'linear' is not supported for this model_type; supported are default and longrope"});
    expect_faults(faults({{"partial_rotary_factor", 0.25}}),
                  {"rope_scaling.partial_rotary_factor: only 1.0"});
    expect_faults(reading({{"partial_rotary_factor", 0.5}}).faults, {"partial_rotary_factor: only 1.0"});
    expect_faults(
        reading({{"partial_rotary_factor", 0.2}}, phi3).faults,
        {"partial_rotary_factor: must leave an even number of the 16 dimensions of a head to turn"});
    expect_faults(reading({{"partial_rotary_factor", 1.5}}, phi3).faults,
                  {"partial_rotary_factor: must leave"});
    Json longrope = typed("longrope", {{"short_factor", ones(6)}, {"long_factor", negative}});
    expect_faults(reading({{"partial_rotary_factor", 0.2}, {"rope_scaling", longrope}}, phi3).faults,
                  {"partial_rotary_factor: must leave", "long_factor: must list 8 positive numbers"});
}

}  // namespace
}  // namespace qlora::models
