#include "llama_class.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

namespace qlora::tokenizer {
namespace {

// Model types that transformers 5.24 reads with another class, or as the file says, whatever class the folder
// names; tests/peers/test_text_encoding.py compares.
constexpr std::array<std::string_view, 15> kOtherClass = {
    "glm4",  "granite", "hyperclovax", "ministral", "ministral3", "mistral",  "mistral3",   "mixtral",
    "olmo2", "olmo3",   "phi3",        "qwen2",     "qwen3_5",    "stablelm", "qwen3_5_moe"};

std::string string_in(const Json& object, const char* field) {
    const auto found = object.find(field);
    return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

bool is_set(const Json& object, const char* field, bool fallback) {
    const auto found = object.find(field);
    return found != object.end() && found->is_boolean() ? found->get<bool>() : fallback;
}

bool names_byte_level(const Json& value) {
    if (value.is_string()) return value == "ByteLevel";
    return value.is_structured() && std::any_of(value.begin(), value.end(), names_byte_level);
}

}  // namespace

bool takes_llama_class(const Json& tokenizer_config, const Json& model_config) {
    std::string name = string_in(tokenizer_config, "tokenizer_class");
    if (name.empty()) name = string_in(model_config, "tokenizer_class");
    if (name != "LlamaTokenizer" && name != "LlamaTokenizerFast") return false;
    const std::string type = string_in(model_config, "model_type");
    return std::find(kOtherClass.begin(), kOtherClass.end(), type) == kOtherClass.end();
}

Json as_llama_class(Json tokenizer, const Json& tokenizer_config) {
    const auto model = tokenizer.find("model");
    if (model == tokenizer.end() || !model->is_object() || !model->contains("merges")) return tokenizer;
    for (const char* part : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
        if (tokenizer.contains(part) && names_byte_level(tokenizer.at(part))) return tokenizer;
    }
    const bool has_prefix = is_set(tokenizer_config, "add_prefix_space", true);
    const bool legacy = is_set(tokenizer_config, "legacy", false);
    const std::string scheme = !has_prefix ? "never" : legacy ? "always" : "first";
    (*model)["unk_token"] = nullptr;
    (*model)["fuse_unk"] = true;
    (*model)["byte_fallback"] = true;
    (*model)["ignore_merges"] = false;
    // The class does not look at the file's list where the configuration has one.
    if (tokenizer_config.contains("added_tokens_decoder")) tokenizer["added_tokens"] = Json::array();
    tokenizer["normalizer"] = nullptr;
    tokenizer["pre_tokenizer"] = {
        {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", false}};
    Json steps = Json::array({{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                              {{"type", "ByteFallback"}},
                              {{"type", "Fuse"}}});
    if (has_prefix) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    tokenizer["decoder"] = {{"type", "Sequence"}, {"decoders", steps}};
    return tokenizer;
}

}  // namespace qlora::tokenizer
