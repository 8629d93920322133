#include <gtest/gtest.h>

#include <functional>

#include "qlora/core/error.h"
#include "qlora/models/decoder_spec.h"
#include "support/tiny_model.h"

// What config.json may not say of a decoder.
namespace qlora::models {
namespace {

using qlora::test::TinyModel;

struct BadModelJson {
    const char* name;
    const char* model_type;
    std::function<void(Json&)> spoil;
    std::vector<std::string> message;  // parts that the error must hold
};

std::ostream& operator<<(std::ostream& out, const BadModelJson& value) {
    return out << value.name;
}

std::vector<BadModelJson> bad_configs() {
    const auto set = [](const char* key, Json value) {
        return [key, value](Json& config) { config[key] = value; };
    };
    const auto drop = [](const char* key) { return [key](Json& config) { config.erase(key); }; };
    const auto windows = [](Json types, bool on) {
        return [types, on](Json& config) {
            config["sliding_window"] = on ? Json(8) : Json(nullptr);
            config["use_sliding_window"] = on;
            config["layer_types"] = types;
        };
    };
    const Json mixed = {"full_attention", "sliding_attention"};
    return {
        {"no_model_type",
         "llama",
         drop("model_type"),
         {"model_type is missing; supported are ", "llama, ", "smollm3"}},
        {"unknown_model_type", "llama", set("model_type", "bloom"), {"'bloom'", "supported are"}},
        {"no_text_config",
         "llama",
         [](Json& config) {
             config = {{"model_type", "mistral3"}};
         },
         {"text_config: must be an object"}},
        {"text_config_of_another_type",
         "llama",
         [](Json& config) {
             config = {{"model_type", "mistral3"}, {"text_config", config}};
         },
         {"text_config.model_type: 'llama' is not supported as the text part", "mistral"}},
        {"a_fault_within_text_config",
         "mistral",
         [](Json& config) {
             config = {{"model_type", "mistral3"}, {"text_config", config}};
             config["text_config"]["hidden_size"] = "wide";
         },
         {"text_config.hidden_size: must be a whole number"}},
        {"model_type_no_string", "llama", set("model_type", 3), {"model_type: must be a string, not 3"}},
        {"no_vocab_size", "llama", drop("vocab_size"), {"vocab_size: is missing"}},
        {"no_hidden_size", "llama", drop("hidden_size"), {"hidden_size: is missing"}},
        {"zero_layers", "llama", set("num_hidden_layers", 0), {"num_hidden_layers", "not 0"}},
        {"a_billion_layers", "llama", set("num_hidden_layers", 1000000000), {"num_hidden_layers", "10000"}},
        {"negative_vocabulary", "llama", set("vocab_size", -5), {"vocab_size", "-5"}},
        {"vocabulary_beyond_int64", "llama", set("vocab_size", 18446744073709551615U), {"vocab_size"}},
        {"fractional_size", "llama", set("intermediate_size", 40.5), {"intermediate_size", "40.5"}},
        {"size_as_text", "llama", set("hidden_size", "32"), {"hidden_size", "\"32\""}},
        {"size_as_boolean", "llama", set("num_attention_heads", true), {"num_attention_heads", "true"}},
        {"heads_not_shared",
         "llama",
         set("num_key_value_heads", 3),
         {"num_key_value_heads", "3 does not divide", "4"}},
        {"more_key_heads", "llama", set("num_key_value_heads", 8), {"num_key_value_heads"}},
        {"odd_head_dim", "llama", set("head_dim", 7), {"head_dim", "even"}},
        {"huge_head_dim", "llama", set("head_dim", 1000000000), {"head_dim"}},
        {"heads_do_not_divide_hidden",
         "mistral",
         [](Json& config) {
             config.erase("head_dim");
             config["num_attention_heads"] = 6;
         },
         {"hidden_size", "32 is not a multiple", "6"}},
        {"negative_eps", "llama", set("rms_norm_eps", -1e-5), {"rms_norm_eps"}},
        {"tie_as_number", "llama", set("tie_word_embeddings", 1), {"tie_word_embeddings", "true or false"}},
        {"relu", "llama", set("hidden_act", "relu"), {"hidden_act", "'relu'", "silu"}},
        {"attention_dropout", "llama", set("attention_dropout", "0.1"), {"attention_dropout", "number"}},
        {"stored_quantized",
         "llama",
         set("quantization_config", {{"quant_method", "gptq"}}),
         {"quantization_config", "original model"}},
        {"own_code",
         "llama",
         [](Json& config) {
             config["model_type"] = "own";
             config["auto_map"] = {{"AutoModel", "modeling.Own"}};
         },
         {"'own' is not supported", "supported are ", "auto_map", "no code"}},
        {"layer_types_too_few", "qwen3", windows({"full_attention"}, true), {"layer_types", "one entry"}},
        {"layer_types_unknown",
         "qwen3",
         windows({"full_attention", "linear_attention"}, true),
         {"layer_types[1]", "linear_attention"}},
        {"layer_types_without_window", "qwen2", windows(mixed, false), {"layer_types[1]", "sliding_window"}},
        {"layer_types_of_mistral", "mistral", windows(mixed, true), {"layer_types[0]", "mistral"}},
        {"window_zero", "mistral", set("sliding_window", 0), {"sliding_window", "not 0"}},
        {"window_as_text",
         "qwen2",
         [](Json& config) {
             config["use_sliding_window"] = true;
             config["sliding_window"] = "wide";
         },
         {"sliding_window", "wide"}},
    };
}

class BadModelConfig : public testing::TestWithParam<BadModelJson> {};
INSTANTIATE_TEST_SUITE_P(Faults, BadModelConfig, testing::ValuesIn(bad_configs()),
                         [](const auto& chosen) { return chosen.param.name; });

TEST_P(BadModelConfig, is_refused_by_name) {
    Json config = TinyModel{.model_type = GetParam().model_type}.config();
    ASSERT_NO_THROW(parse_decoder_spec(config, "config.json")) << "the unspoiled one must be good";
    GetParam().spoil(config);
    try {
        parse_decoder_spec(config, "config.json");
        FAIL() << "accepted " << config.dump();
    } catch (const CheckpointError& error) {
        const std::string text = error.what();
        EXPECT_EQ(text.find("config.json"), 0U) << text;
        for (const std::string& part : GetParam().message)
            EXPECT_NE(text.find(part), std::string::npos) << text;
    }
}

std::string message_of(const Json& config) {
    try {
        parse_decoder_spec(config, "config.json");
    } catch (const CheckpointError& error) {
        return error.what();
    }
    return "accepted";
}

TEST(DecoderSpec, a_fault_of_many_layers_is_said_once) {
    const Json layers = {{"num_hidden_layers", 4}, {"sliding_window", 8}, {"use_sliding_window", true}};
    const auto with = [&](const char* model_type, const char* kind, const Json& more = Json::object()) {
        Json config = TinyModel{.model_type = model_type}.config();
        config.update(layers);
        config.update(more);
        config["layer_types"] = Json::array({kind, kind, kind, kind});
        return message_of(config);
    };
    EXPECT_EQ(with("qwen3", "chunked_attention"),
              "config.json: layer_types[0]: \"chunked_attention\" is not supported; use full_attention or "
              "sliding_attention");
    EXPECT_EQ(with("qwen3", "sliding_attention", {{"use_sliding_window", false}}),
              "config.json: layer_types[0]: is sliding_attention, but no sliding_window is switched on");
    EXPECT_EQ(with("mistral", "full_attention"),
              "config.json: layer_types[0]: is full_attention, but all layers of a mistral model have the "
              "sliding_window");
    Json exaone4 = TinyModel{.model_type = "exaone4"}.config();
    exaone4["sliding_window_pattern"] = "LLLG";
    EXPECT_EQ(message_of(exaone4),
              "config.json: layer_types: is missing; transformers makes it from a whole number in "
              "sliding_window_pattern alone");
}

TEST(DecoderSpec, heads_of_an_odd_size_are_refused_by_the_key_that_makes_them) {
    Json gpt2 = {{"model_type", "gpt2"}, {"vocab_size", 97}, {"n_embd", 30}, {"n_layer", 2}, {"n_head", 2}};
    EXPECT_EQ(message_of(gpt2),
              "config.json: n_head: makes heads of 15 dimensions; their number must be even");
    gpt2["n_head"] = 4;
    EXPECT_EQ(message_of(gpt2), "config.json: n_embd: 30 is not a multiple of n_head 4");
}

TEST(DecoderSpec, all_faults_come_together) {
    Json config = TinyModel{}.config();
    config["hidden_act"] = "relu";
    config["vocab_size"] = 0;
    config["rope_parameters"]["rope_type"] = "axial";
    try {
        parse_decoder_spec(config, "config.json");
        FAIL();
    } catch (const CheckpointError& error) {
        for (const char* part : {"3 faults", "hidden_act", "vocab_size", "axial"}) {
            EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
        }
    }
}

TEST(DecoderSpec, needs_an_object) {
    for (const Json& json : {Json::array(), Json("llama"), Json(nullptr)}) {
        EXPECT_THROW(parse_decoder_spec(json, "config.json"), CheckpointError);
    }
}

}  // namespace
}  // namespace qlora::models
