#include "qlora/models/decoder_spec.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "qlora/core/error.h"
#include "support/captured_log.h"
#include "support/tiny_model.h"

namespace qlora::models {
namespace {

using qlora::test::TinyModel;

const spec::Attention& attention_of(const DecoderSpec& decoder, std::size_t layer) {
    return std::get<spec::Attention>(decoder.layers.at(layer).branches.front().block);
}

std::vector<std::int64_t> windows_of(const DecoderSpec& decoder) {
    std::vector<std::int64_t> out;
    for (std::size_t i = 0; i < decoder.layers.size(); ++i) out.push_back(attention_of(decoder, i).window);
    return out;
}

/// A mistral beside a vision tower: its section's keys, the outer tying, and paths below language_model.
TEST(DecoderSpec, the_text_part_of_a_model_of_pictures_is_described_by_its_section) {
    Json text = TinyModel{.model_type = "mistral", .tie = false}.config();
    text["pad_token_id"] = 5;
    text["quantization_config"] = "not read here";
    const Json json = {{"model_type", "mistral3"},
                       {"text_config", text},
                       {"pad_token_id", 6},
                       {"eos_token_id", 7},
                       {"torch_dtype", "bfloat16"}};
    const DecoderSpec decoder = parse_decoder_spec(json, "config.json");
    EXPECT_TRUE(decoder.tie_word_embeddings) << "true where it is not said outside of the section";
    EXPECT_EQ(decoder.embedding, "model.language_model.embed_tokens");
    EXPECT_EQ(decoder.final_norm.path, "model.language_model.norm");
    EXPECT_EQ(decoder.linears().front()->path, "model.language_model.layers.0.self_attn.q_proj");
    EXPECT_EQ(decoder.norms().front()->path, "model.language_model.layers.0.input_layernorm");
    EXPECT_EQ(decoder.head.path, "lm_head");
    EXPECT_EQ(decoder.pad_token_id, 5);
    EXPECT_EQ(decoder.eos_token_ids, (std::vector<std::int64_t>{2, 7}));
    EXPECT_EQ(decoder.dtype, "bfloat16");
    EXPECT_FALSE(decoder.stored_in_4bit.has_value());
    EXPECT_TRUE(decoder.lora_targets.empty());
}

TEST(DecoderSpec, missing_keys_have_the_defaults_of_their_model_type) {
    struct Expected {
        const char* model_type;
        std::int64_t kv_heads, head_dim, positions;
        bool query_bias, query_norm;
    };
    for (const Expected& expected :
         {Expected{"llama", 64, 2, 2048, false, false}, Expected{"mistral", 8, 2, 131072, false, false},
          Expected{"qwen2", 32, 2, 32768, true, false}, Expected{"qwen3", 32, 128, 32768, false, true}}) {
        const Json json = {
            {"model_type", expected.model_type}, {"vocab_size", 97},       {"hidden_size", 128},
            {"intermediate_size", 40},           {"num_hidden_layers", 2}, {"num_attention_heads", 64}};
        const DecoderSpec config = parse_decoder_spec(json, "config.json");
        const spec::Attention& attention = attention_of(config, 1);
        EXPECT_EQ(attention.kv_heads, expected.kv_heads) << expected.model_type;
        EXPECT_EQ(attention.head_dim, expected.head_dim) << expected.model_type;
        EXPECT_EQ(config.ropes[0].dims, expected.head_dim);
        EXPECT_EQ(config.max_position_embeddings, expected.positions);
        for (const spec::Linear* linear : config.linears()) {
            const bool is_entry = linear->in == 128 && linear->path.find("self_attn") != std::string::npos &&
                                  !linear->path.ends_with("o_proj");
            EXPECT_EQ(linear->bias, is_entry && expected.query_bias) << linear->path;
        }
        EXPECT_EQ(attention.q_norm.has_value(), expected.query_norm);
        EXPECT_EQ(attention.k_norm.has_value(), expected.query_norm);
        EXPECT_FALSE(config.tie_word_embeddings);
        for (const spec::Norm* norm : config.norms()) EXPECT_EQ(norm->eps, 1e-6) << norm->path;
        EXPECT_EQ(config.ropes[0].frequencies.theta, 10000.0);
        const std::int64_t window = std::string(expected.model_type) == "mistral" ? 4096 : 0;
        EXPECT_EQ(windows_of(config), std::vector<std::int64_t>({window, window}));
    }
}

TEST(DecoderSpec, phi3_has_fused_linears_and_defaults_of_its_own) {
    Json json = {{"model_type", "phi3"},    {"vocab_size", 32064},    {"hidden_size", 128},
                 {"intermediate_size", 40}, {"num_hidden_layers", 1}, {"num_attention_heads", 4}};
    const DecoderSpec decoder = parse_decoder_spec(json, "config.json");
    std::vector<std::string> shapes;
    for (const spec::Linear* linear : decoder.linears())
        shapes.push_back(linear->path + " " + std::to_string(linear->in) + " " + std::to_string(linear->out));
    const std::string layer = "model.layers.0.";
    EXPECT_EQ(shapes, (std::vector<std::string>{
                          layer + "self_attn.qkv_proj 128 384", layer + "self_attn.o_proj 128 128",
                          layer + "mlp.gate_up_proj 128 80", layer + "mlp.down_proj 40 128"}));
    EXPECT_EQ(decoder.final_norm.eps, 1e-5);
    EXPECT_EQ(decoder.max_position_embeddings, 4096);
    EXPECT_EQ(windows_of(decoder), std::vector<std::int64_t>({0}));
    EXPECT_EQ(decoder.pad_token_id, 32000);
    json["pad_token_id"] = nullptr;
    json["resid_pdrop"] = 0.1;
    const DecoderSpec other = parse_decoder_spec(json, "config.json");
    EXPECT_EQ(other.pad_token_id, std::nullopt);
    EXPECT_EQ(other.passed_over,
              std::vector<std::string>({"config.json: resid_pdrop of the base is taken as 0"}));
    json["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
    EXPECT_THROW(parse_decoder_spec(json, "config.json"), CheckpointError);
}

TEST(DecoderSpec, layers_of_a_ministral_may_differ) {
    Json json = TinyModel{.model_type = "mistral", .sliding_window = 8}.config();
    json["model_type"] = "ministral";
    EXPECT_EQ(windows_of(parse_decoder_spec(json, "c")), std::vector<std::int64_t>({8, 8}));
    json["layer_types"] = {"full_attention", "sliding_attention"};
    EXPECT_EQ(windows_of(parse_decoder_spec(json, "c")), std::vector<std::int64_t>({0, 8}));
    json.erase("head_dim");
    EXPECT_THROW(parse_decoder_spec(json, "c"), CheckpointError);
}

TEST(DecoderSpec, layers_of_a_smollm3_may_know_no_positions) {
    Json json = {{"model_type", "smollm3"}, {"vocab_size", 128256},   {"hidden_size", 128},
                 {"intermediate_size", 40}, {"num_hidden_layers", 4}, {"num_attention_heads", 4}};
    const auto rotates = [&] {
        std::vector<bool> out;
        const DecoderSpec decoder = parse_decoder_spec(json, "c");
        for (std::size_t i = 0; i < decoder.layers.size(); ++i)
            out.push_back(attention_of(decoder, i).rope.has_value());
        return out;
    };
    EXPECT_EQ(rotates(), std::vector<bool>({true, true, true, false}));
    const DecoderSpec decoder = parse_decoder_spec(json, "c");
    EXPECT_EQ(decoder.ropes[0].frequencies.theta, 2e6);
    EXPECT_TRUE(decoder.tie_word_embeddings);
    EXPECT_EQ(decoder.pad_token_id, 128004);
    EXPECT_EQ(attention_of(decoder, 0).kv_heads, 4);
    json["sliding_window"] = 8;
    EXPECT_EQ(windows_of(parse_decoder_spec(json, "c")), std::vector<std::int64_t>({0, 0, 0, 0}));
    json["use_sliding_window"] = true;
    json["no_rope_layers"] = {0, 1, 1, 0};
    EXPECT_EQ(rotates(), std::vector<bool>({false, true, true, false}));
    EXPECT_EQ(windows_of(parse_decoder_spec(json, "c")), std::vector<std::int64_t>({8, 0, 0, 8}));
    json["layer_types"] = {"full_attention", "full_attention", "sliding_attention", "full_attention"};
    EXPECT_EQ(windows_of(parse_decoder_spec(json, "c")), std::vector<std::int64_t>({0, 0, 8, 0}));
    json["no_rope_layers"] = {0, 1};
    EXPECT_THROW(parse_decoder_spec(json, "c"), CheckpointError);
}

TEST(DecoderSpec, linears_and_norms_stand_in_the_order_of_the_checkpoint) {
    const DecoderSpec decoder =
        parse_decoder_spec(TinyModel{.model_type = "qwen3", .layers = 1}.config(), "config.json");
    std::vector<std::string> paths;
    for (const spec::Linear* linear : decoder.linears()) paths.push_back(linear->path);
    const std::string attention = "model.layers.0.self_attn.", mlp = "model.layers.0.mlp.";
    EXPECT_EQ(paths, (std::vector<std::string>{attention + "q_proj", attention + "k_proj",
                                               attention + "v_proj", attention + "o_proj", mlp + "gate_proj",
                                               mlp + "up_proj", mlp + "down_proj"}));
    paths.clear();
    for (const spec::Norm* norm : decoder.norms()) paths.push_back(norm->path);
    EXPECT_EQ(paths, (std::vector<std::string>{"model.layers.0.input_layernorm", attention + "q_norm",
                                               attention + "k_norm",
                                               "model.layers.0.post_attention_layernorm", "model.norm"}));
}

TEST(DecoderSpec, python_code_of_a_type_that_is_built_in_is_passed_over_in_one_line) {
    Json json = TinyModel{}.config();
    EXPECT_TRUE(parse_decoder_spec(json, "config.json").passed_over.empty());
    json["auto_map"] = {{"AutoModelForCausalLM", "modeling.Own"}};
    const DecoderSpec config = parse_decoder_spec(json, "config.json");
    const test::CapturedLog log;
    log_passed_over(config);
    EXPECT_EQ(log.count("config.json: auto_map is passed over"), 1U) << log.text();
}

TEST(DecoderSpec, a_null_number_of_key_heads_means_all_heads) {
    for (const char* type : {"llama", "mistral", "qwen2", "qwen3"}) {
        Json json = TinyModel{.model_type = type}.config();
        json["num_key_value_heads"] = nullptr;
        EXPECT_EQ(attention_of(parse_decoder_spec(json, "config.json"), 0).kv_heads, 4) << type;
    }
}

TEST(DecoderSpec, windows_follow_flag_first_layer_and_layer_types) {
    Json json = TinyModel{.model_type = "qwen3", .sliding_window = 8}.config();
    EXPECT_EQ(windows_of(parse_decoder_spec(json, "c")), std::vector<std::int64_t>({0, 8}));
    json["layer_types"] = {"sliding_attention", "full_attention"};
    EXPECT_EQ(windows_of(parse_decoder_spec(json, "c")), std::vector<std::int64_t>({8, 0}));
    json.erase("layer_types");
    json["use_sliding_window"] = false;
    EXPECT_EQ(windows_of(parse_decoder_spec(json, "c")), std::vector<std::int64_t>({0, 0}));
    json = TinyModel{.model_type = "mistral", .sliding_window = 8}.config();
    EXPECT_EQ(windows_of(parse_decoder_spec(json, "c")), std::vector<std::int64_t>({8, 8}));
    json["sliding_window"] = nullptr;
    EXPECT_EQ(windows_of(parse_decoder_spec(json, "c")), std::vector<std::int64_t>({0, 0}));
}

TEST(DecoderSpec, end_tokens_may_be_one_or_a_list) {
    Json json = TinyModel{}.config();
    EXPECT_EQ(parse_decoder_spec(json, "c").eos_token_ids, std::vector<std::int64_t>({2}));
    json["eos_token_id"] = {2, 7};
    EXPECT_EQ(parse_decoder_spec(json, "c").eos_token_ids, std::vector<std::int64_t>({2, 7}));
    json["eos_token_id"] = nullptr;
    EXPECT_TRUE(parse_decoder_spec(json, "c").eos_token_ids.empty());
}

}  // namespace
}  // namespace qlora::models
