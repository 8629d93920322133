#include "folder_files.h"

#include "qlora/core/error.h"
#include "qlora/core/optional_file.h"

namespace qlora::tokenizer {

Json read_optional_object(const std::filesystem::path& folder, const std::string& name) {
    const std::filesystem::path file = folder / name;
    if (!optional_file_exists(file)) return Json::object();
    try {
        Json json = read_json_file(file);
        if (!json.is_object()) throw CheckpointError(file.string() + ": must hold an object");
        return json;
    } catch (const ConfigError& error) {
        throw CheckpointError(error.what());
    }
}

std::optional<std::string> token_content(const Json& value) {
    if (value.is_string()) return value.get<std::string>();
    if (!value.is_object()) return std::nullopt;
    const auto content = value.find("content");
    if (content == value.end() || !content->is_string()) return std::nullopt;
    return content->get<std::string>();
}

const Json* special_token_value(const Json& tokenizer_config, const Json& special_tokens_map,
                                const std::string& role) {
    if (!tokenizer_config.contains("added_tokens_decoder")) {
        const auto mapped = special_tokens_map.find(role);
        if (mapped != special_tokens_map.end()) return &*mapped;
    }
    const auto configured = tokenizer_config.find(role);
    return configured == tokenizer_config.end() ? nullptr : &*configured;
}

std::optional<std::string> special_token_name(const Json& tokenizer_config, const Json& special_tokens_map,
                                              const std::string& role) {
    const Json* value = special_token_value(tokenizer_config, special_tokens_map, role);
    return value == nullptr ? std::nullopt : token_content(*value);
}

}  // namespace qlora::tokenizer
