#include "qlora/adapters/lora_config.h"

#include <algorithm>
#include <cmath>

#include "name_pattern.h"
#include "qlora/core/log.h"
#include "qlora/core/nearest.h"

namespace qlora::adapters {
namespace {

constexpr const char* kPeftVersion = "0.21.2";  // the version whose file this is

std::string path_to(const std::string& path, const std::string& name) {
    return path.empty() ? name : path + "." + name;
}

void check_regex(const std::string& regex, const std::string& place, FaultList& faults) {
    try {
        NamePattern{regex};
    } catch (const ConfigError& error) {
        faults.add(place, error.what());
    }
}

void check_names(const NameList& names, const std::string& place, FaultList& faults) {
    const bool has_empty = std::find(names.begin(), names.end(), "") != names.end();
    if (has_empty) faults.add(place, "must not contain an empty name");
}

// A string is a regular expression, a list holds plain names.
void check_module_names(const ModuleNames& names, const std::string& place, FaultList& faults) {
    if (const auto* regex = std::get_if<std::string>(&names)) check_regex(*regex, place, faults);
    if (const auto* list = std::get_if<NameList>(&names)) check_names(*list, place, faults);
}

template <class T>
void check_patterns(const NamePatterns<T>& patterns, const std::string& place, FaultList& faults) {
    for (const auto& [key, value] : patterns) check_regex("(.*\\.)?(" + key + ")$", place, faults);
}

bool is_given(const ModuleNames& names) {
    if (const auto* text = std::get_if<std::string>(&names)) return !text->empty();
    if (const auto* list = std::get_if<NameList>(&names)) return !list->empty();
    return false;
}

// Writes a whole adapter_config.json as PEFT does: also the fields that are not built here, at their
// defaults.
class AdapterWriter : public FieldWriter {
  public:
    void fixed(const char* name, const Json& default_value, const char*) { out[name] = default_value; }
};

// PEFT declares alpha an integer; a whole number is written as one.
Json alpha_json(double alpha) {
    constexpr double kLargestExact = 9007199254740992.0;
    if (std::floor(alpha) == alpha && alpha < kLargestExact) return static_cast<std::int64_t>(alpha);
    return alpha;
}

Json sorted_by_key(const Json& object) {
    std::vector<std::pair<std::string, Json>> members;
    for (const auto& [key, value] : object.items()) members.emplace_back(key, value);
    std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    Json sorted = Json::object();
    for (auto& [key, value] : members) sorted[key] = std::move(value);
    return sorted;
}

// Two configurations that differ only in this form mean the same: lists of names sorted, once each.
Json comparable(const std::string& name, Json value) {
    const bool is_ordered = name == "rank_pattern" || name == "alpha_pattern";
    if (is_ordered || !value.is_array()) return value;
    auto items = value.get<std::vector<Json>>();
    std::sort(items.begin(), items.end());
    items.erase(std::unique(items.begin(), items.end()), items.end());
    return items;
}

}  // namespace

void check_lora_config(const LoraConfig& config, const std::string& path, FaultList& faults) {
    const std::string target = path_to(path, "target_modules");
    const auto* target_list = std::get_if<NameList>(&config.target_modules);
    const bool is_target_text = std::holds_alternative<std::string>(config.target_modules);
    const bool has_parameters = config.target_parameters && !config.target_parameters->empty();
    if (target_list != nullptr && target_list->empty() && !has_parameters) {
        faults.add(target, "is an empty list, so nothing would train; leave it out for PEFT's choice");
    }
    check_module_names(config.target_modules, target, faults);
    if (has_parameters) {
        check_names(*config.target_parameters, path_to(path, "target_parameters"), faults);
        if (config.lora_dropout != 0) {
            faults.add(path_to(path, "lora_dropout"),
                       "must be 0 with target_parameters: an adapter on a parameter has no input of its own");
        }
    }
    check_module_names(config.exclude_modules, path_to(path, "exclude_modules"), faults);
    for (const std::string& name : config.modules_to_save.value_or(NameList{})) {
        check_regex("(^|.*\\.)" + name + "($|\\..*)", path_to(path, "modules_to_save"), faults);
    }
    check_names(config.modules_to_save.value_or(NameList{}), path_to(path, "modules_to_save"), faults);

    const bool has_layers = !std::holds_alternative<std::monostate>(config.layers_to_transform);
    const bool has_layers_pattern = !std::holds_alternative<std::monostate>(config.layers_pattern);
    if (has_layers && is_target_text) {
        faults.add(path_to(path, "layers_to_transform"),
                   "cannot be combined with a target_modules string; use a list of names there");
    }
    if (has_layers_pattern && is_target_text) {
        faults.add(path_to(path, "layers_pattern"),
                   "cannot be combined with a target_modules string; use a list of names there");
    }
    if (is_given(config.layers_pattern) && !has_layers) {
        faults.add(path_to(path, "layers_pattern"), "has no effect without layers_to_transform");
    }
    if (const auto* regex = std::get_if<std::string>(&config.layers_pattern)) {
        check_regex("(?:^|.*?\\.)" + *regex + "\\.(?P<idx>\\d+)\\.", path_to(path, "layers_pattern"), faults);
    }
    if (const auto* list = std::get_if<NameList>(&config.layers_pattern)) {
        for (const std::string& regex : *list) {
            check_regex("(?:^|.*?\\.)" + regex + "\\.(?P<idx>\\d+)\\.", path_to(path, "layers_pattern"),
                        faults);
        }
    }
    check_patterns(config.rank_pattern, path_to(path, "rank_pattern"), faults);
    check_patterns(config.alpha_pattern, path_to(path, "alpha_pattern"), faults);
}

LoraConfig parse_adapter_config(const Json& json, const std::string& name) {
    if (!json.is_object()) throw CheckpointError(name + ": " + wrong_type("an object", json));
    LoraConfig config;
    config.task_type.reset();
    ReadState state;
    FieldReader reader(json, "", state);
    LoraConfig::fields(config, reader);
    if (!json.contains("peft_type")) state.faults.add("peft_type", "is required");
    for (const std::string& key : reader.unknown_keys()) {
        if (is_empty_value(json[key])) {
            spdlog::info("{}: the unknown field \"{}\" switches nothing on and is passed over", name, key);
        } else {
            state.faults.add(key, "is not known to this version and may change what the adapter computes" +
                                      did_you_mean(key, reader.known_keys()));
        }
    }
    check_lora_config(config, "", state.faults);
    state.faults.throw_if_any<CheckpointError>(name);
    return config;
}

LoraConfig read_adapter_config(const std::filesystem::path& file) {
    return parse_adapter_config(read_json_file(file), file.string());
}

std::string adapter_config_text(const LoraConfig& config) {
    AdapterWriter writer;
    LoraConfig::fields(config, writer);
    Json& out = writer.out;
    out["lora_alpha"] = alpha_json(config.lora_alpha);
    for (const auto& [key, alpha] : config.alpha_pattern) out["alpha_pattern"][key] = alpha_json(alpha);
    out["auto_mapping"] = nullptr;
    out["fan_in_fan_out"] = config.fan_in_fan_out;
    out["inference_mode"] = true;
    out["peft_version"] = kPeftVersion;
    out["revision"] = nullptr;
    return sorted_by_key(out).dump(2, ' ', true);
}

std::vector<std::string> differences(const LoraConfig& ours, const LoraConfig& theirs) {
    const Json left = write_fields(ours);
    const Json right = write_fields(theirs);
    std::vector<std::string> out;
    for (const auto& [name, value] : left.items()) {
        if (name == "base_model_name_or_path" || name == "task_type") continue;
        if (comparable(name, value) == comparable(name, right[name])) continue;
        out.push_back(name + ": " + value.dump() + " against " + right[name].dump());
    }
    return out;
}

}  // namespace qlora::adapters
