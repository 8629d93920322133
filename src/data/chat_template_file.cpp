#include <algorithm>

#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/core/lfs_pointer.h"
#include "qlora/core/optional_file.h"
#include "qlora/core/whole_file.h"
#include "qlora/data/prompt_template.h"

namespace qlora::data {
namespace {

constexpr const char* kFile = "chat_template.jinja";
constexpr const char* kDefault = "default";

/// A string is the one named "default".
std::optional<std::string> template_of_config(const Json& config, const std::string& name,
                                              const std::filesystem::path& file) {
    const auto found = config.find("chat_template");
    if (found == config.end() || found->is_null()) return std::nullopt;
    if (found->is_string()) {
        if (name != kDefault) return std::nullopt;
        return found->get<std::string>();
    }
    const auto is_named = [](const Json& entry) {
        return entry.is_object() && entry.value("name", Json()).is_string() &&
               entry.value("template", Json()).is_string();
    };
    if (found->is_array() && std::all_of(found->begin(), found->end(), is_named)) {
        for (const Json& entry : *found) {
            if (entry.at("name") == name) return entry.at("template").get<std::string>();
        }
        if (name != kDefault || found->empty()) return std::nullopt;
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
    const std::filesystem::path config = folder / "tokenizer_config.json";
    if (!optional_file_exists(config)) return std::nullopt;
    return template_of_config(read_json_file(config), name, config);
}

}  // namespace

std::optional<std::string> read_chat_template(const std::filesystem::path& folder) {
    return read_named(folder, kFile, kDefault);
}

std::optional<std::string> read_tool_template(const std::filesystem::path& folder) {
    return read_named(folder, "additional_chat_templates/tool_use.jinja", "tool_use");
}

}  // namespace qlora::data
