#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace qlora {

/// Order-preserving, because the order of rank_pattern and alpha_pattern decides which entry wins.
using Json = nlohmann::ordered_json;

/// Parses strictly: UTF-8, one value, no duplicate keys, no NaN literals, nesting at most `kMaxJsonDepth`.
/// Throws ConfigError with `name`, line and column. The whole of `text` must be consumed.
Json parse_json(std::string_view text, const std::string& name);

/// Reads and parses a file; a missing or unreadable one is a ConfigError that names it.
Json read_json_file(const std::filesystem::path& file);

inline constexpr int kMaxJsonDepth = 200;

}  // namespace qlora
