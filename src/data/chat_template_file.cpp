#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/core/lfs_pointer.h"
#include "qlora/core/optional_file.h"
#include "qlora/core/whole_file.h"
#include "qlora/data/prompt_template.h"

namespace qlora::data {
namespace {

std::optional<std::string> template_of_config(const Json& config, const std::filesystem::path& file) {
    const auto found = config.find("chat_template");
    if (found == config.end() || found->is_null()) return std::nullopt;
    if (found->is_string()) return found->get<std::string>();
    if (found->is_array()) {
        for (const Json& entry : *found) {
            if (entry.is_object() && entry.value("name", Json()) == "default" &&
                entry.value("template", Json()).is_string()) {
                return entry.at("template").get<std::string>();
            }
        }
    }
    throw CheckpointError(file.string() +
                          ": chat_template must be a string or a list that has one named \"default\"");
}

}  // namespace

std::optional<std::string> read_chat_template(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / "chat_template.jinja";
    if (optional_file_exists(file)) {
        std::string text = read_whole_file(file);
        if (const std::string pointer = fault_of_lfs_pointer(text); !pointer.empty())
            throw CheckpointError(file.string() + ": " + pointer);
        return text;
    }
    const std::filesystem::path config = folder / "tokenizer_config.json";
    if (!optional_file_exists(config)) return std::nullopt;
    return template_of_config(read_json_file(config), config);
}

}  // namespace qlora::data
