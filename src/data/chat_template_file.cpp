#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/core/lfs_pointer.h"
#include "qlora/core/optional_file.h"
#include "qlora/core/whole_file.h"
#include "qlora/data/prompt_template.h"

namespace qlora::data {
namespace {

constexpr const char* kFile = "chat_template.jinja";
constexpr const char* kFolder = "additional_chat_templates";
constexpr const char* kEnding = ".jinja";
constexpr const char* kDefault = "default";

/// What tokenizer_config.json says; a string is the one named "default". Of two with a name the first counts.
std::map<std::string, std::string> templates_of_config(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / "tokenizer_config.json";
    std::map<std::string, std::string> out;
    if (!optional_file_exists(file)) return out;
    const Json config = read_json_file(file);
    const auto found = config.find("chat_template");
    if (found == config.end() || found->is_null()) return out;
    if (found->is_string()) return {{kDefault, found->get<std::string>()}};
    const auto is_named = [](const Json& entry) {
        return entry.is_object() && entry.value("name", Json()).is_string() &&
               entry.value("template", Json()).is_string();
    };
    if (found->is_array() && std::all_of(found->begin(), found->end(), is_named)) {
        for (const Json& entry : *found)
            out.emplace(entry.at("name").get<std::string>(), entry.at("template").get<std::string>());
        if (out.empty() || out.contains(kDefault)) return out;
    }
    throw CheckpointError(file.string() +
                          ": chat_template must be a string or a list that has one named \"default\"");
}

std::optional<std::string> template_of_file(const std::filesystem::path& file) {
    if (!optional_file_exists(file)) return std::nullopt;
    std::string text = read_whole_file(file);
    if (const std::string pointer = fault_of_lfs_pointer(text); !pointer.empty())
        throw CheckpointError(file.string() + ": " + pointer);
    return text;
}

std::optional<std::string> read_named(const std::filesystem::path& folder, const std::filesystem::path& file,
                                      const std::string& name) {
    if (auto text = template_of_file(folder / file)) return text;
    // Where a folder has the default one as a file, transformers does not look into the configuration.
    if (name != kDefault && optional_file_exists(folder / kFile)) return std::nullopt;
    const auto listed = templates_of_config(folder);
    const auto found = listed.find(name);
    return found == listed.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace

std::optional<std::string> read_chat_template(const std::filesystem::path& folder) {
    return read_named(folder, kFile, kDefault);
}

std::optional<std::string> read_tool_template(const std::filesystem::path& folder) {
    return read_named(folder, named_template_file("tool_use"), "tool_use");
}

std::string named_template_file(const std::string& name) {
    return std::string(kFolder) + "/" + name + kEnding;
}

std::map<std::string, std::string> read_named_templates(const std::filesystem::path& folder, bool listed) {
    std::map<std::string, std::string> out;
    std::error_code error;
    for (std::filesystem::directory_iterator entry(folder / kFolder, error), end; !error && entry != end;
         entry.increment(error)) {
        const std::filesystem::path& file = entry->path();
        if (file.extension() != kEnding) continue;
        if (auto text = template_of_file(file)) out.emplace(file.stem().string(), std::move(*text));
    }
    if (!listed || !out.empty() || optional_file_exists(folder / kFile)) return out;
    out = templates_of_config(folder);
    out.erase(kDefault);
    for (const auto& [name, text] : out) {
        const bool is_file_name =
            !name.empty() && name.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
        if (!is_file_name)
            throw CheckpointError((folder / "tokenizer_config.json").string() +
                                  ": a chat_template is named " + Json(name).dump() +
                                  ", which cannot be the name of a file");
    }
    return out;
}

}  // namespace qlora::data
