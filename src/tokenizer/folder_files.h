#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "qlora/core/json.h"

namespace qlora::tokenizer {

/// The JSON object in `folder`/`name`; an empty object when there is no such file. Throws CheckpointError
/// otherwise.
Json read_optional_object(const std::filesystem::path& folder, const std::string& name);

/// A token written as a string or as {"content": ...}; nothing for any other value.
std::optional<std::string> token_content(const Json& value);

/// What the folder says of `role` ("bos_token", say); null: nothing. As in transformers,
/// `special_tokens_map.json` goes before `tokenizer_config.json` unless the latter has
/// `added_tokens_decoder`, and is then not read at all.
const Json* special_token_value(const Json& tokenizer_config, const Json& special_tokens_map,
                                const std::string& role);
/// The token's name in that value.
std::optional<std::string> special_token_name(const Json& tokenizer_config, const Json& special_tokens_map,
                                              const std::string& role);

}  // namespace qlora::tokenizer
