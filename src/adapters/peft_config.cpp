#include "qlora/adapters/peft_config.h"

#include <algorithm>
#include <cmath>

#include "adapter_hub.h"
#include "qlora/core/log.h"
#include "qlora/core/nearest.h"

namespace qlora::adapters {
namespace {

constexpr const char* kPeftVersion = "0.21.2";  // the version whose file this is

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

void write_special(const LoraConfig& config, Json& out) {
    out["lora_alpha"] = alpha_json(config.lora_alpha);
    for (const auto& [key, alpha] : config.alpha_pattern) out["alpha_pattern"][key] = alpha_json(alpha);
    out["fan_in_fan_out"] = config.fan_in_fan_out;
}

void write_special(const Ia3Config& config, Json& out) {
    out["fan_in_fan_out"] = config.fan_in_fan_out;
}
void write_special(const PromptTuningConfig& /*config*/, Json& /*out*/) {}
void write_special(const PromptEncoderConfig& /*config*/, Json& /*out*/) {}
void write_special(const PrefixTuningConfig& /*config*/, Json& out) {
    out.erase(PrefixTuningConfig::kInitText);
}
void write_special(const BottleneckConfig& /*config*/, Json& /*out*/) {}  // its file is AdapterHub's

/// With what the method decides filled in.
PeftConfig with_defaults(const PeftConfig& config) {
    const auto* bottleneck = std::get_if<BottleneckConfig>(&config);
    return bottleneck == nullptr ? config : completed(*bottleneck);
}

/// What a file does not say of the task stays unsaid.
template <class Config>
void read_file(const Json& json, const std::string& name, bool knows_method, Config& config,
               ReadState& state) {
    config.task_type.reset();
    FieldReader reader(json, "", state);
    Config::fields(config, reader);
    if (!knows_method) return;
    for (const std::string& key : reader.unknown_keys()) {
        if (is_empty_value(json[key])) {
            spdlog::info("{}: the unknown field \"{}\" switches nothing on and is passed over", name, key);
        } else {
            state.faults.add(key, "is not known to this version and may change what the adapter computes" +
                                      did_you_mean(key, reader.known_keys()));
        }
    }
}

}  // namespace

PeftType type_of(const PeftConfig& config) {
    return std::visit([](const auto& chosen) { return chosen.kTag; }, config);
}

std::optional<std::string>& base_name(PeftConfig& config) {
    return std::visit(
        [](auto& chosen) -> auto& { return chosen.base_model_name_or_path; }, config);
}

void name_base(PeftConfig& config, const std::string& base) {
    if (!base_name(config)) base_name(config) = base;
    auto* prompt = std::get_if<PromptTuningConfig>(&config);
    if (prompt == nullptr || prompt->prompt_tuning_init != PromptTuningInit::kText) return;
    if (!prompt->tokenizer_name_or_path) prompt->tokenizer_name_or_path = prompt->base_model_name_or_path;
}

std::optional<NameList>* modules_to_save(PeftConfig& config) {
    return std::visit(
        [](auto& chosen) -> std::optional<NameList>* {
            if constexpr (requires { chosen.modules_to_save; }) return &chosen.modules_to_save;
            return nullptr;
        },
        config);
}

double default_learning_rate(const PeftConfig& config) {
    return std::visit([](const auto& chosen) { return chosen.kLearningRate; }, config);
}

void check_config(const PeftConfig& config, const std::string& path, FaultList& faults) {
    std::visit([&](const auto& chosen) { check_config(chosen, path, faults); }, config);
}

PeftConfig parse_adapter_config(const Json& json, const std::string& name) {
    if (!json.is_object()) throw CheckpointError(name + ": " + wrong_type("an object", json));
    if (adapter_hub::is_config(json)) return adapter_hub::parse_config(json, name);
    PeftConfig config;
    ReadState state;
    const bool is_chosen = choose_alternative(json, config);
    std::visit([&](auto& chosen) { read_file(json, name, is_chosen, chosen, state); }, config);
    if (!json.contains(LoraConfig::kTagName)) state.faults.add(LoraConfig::kTagName, "is required");
    if (type_of(config) == PeftType::kBottleneck)
        state.faults.add(LoraConfig::kTagName,
                         "is \"BOTTLENECK\", which a file of AdapterHub's does not say");
    check_config(config, "", state.faults);
    state.faults.throw_if_any<CheckpointError>(name);
    return config;
}

PeftConfig read_adapter_config(const std::filesystem::path& file) {
    return parse_adapter_config(read_json_file(file), file.string());
}

std::string adapter_config_text(const PeftConfig& config) {
    if (const auto* bottleneck = std::get_if<BottleneckConfig>(&config))
        return adapter_hub::config_text(*bottleneck);
    AdapterWriter writer;
    std::visit([&]<class Chosen>(const Chosen& chosen) { Chosen::fields(chosen, writer); }, config);
    Json& out = writer.out;
    std::visit([&](const auto& chosen) { write_special(chosen, out); }, config);
    out["auto_mapping"] = nullptr;
    out["inference_mode"] = true;
    out["peft_version"] = kPeftVersion;
    out["revision"] = nullptr;
    return sorted_by_key(out).dump(2, ' ', true);
}

std::vector<std::string> differences(const PeftConfig& ours, const PeftConfig& theirs) {
    const Json left = write_fields(with_defaults(ours));
    const Json right = write_fields(with_defaults(theirs));
    std::vector<std::string> out;
    if (type_of(ours) != type_of(theirs)) {
        const char* tag = LoraConfig::kTagName;
        return {std::string(tag) + ": " + left[tag].dump() + " against " + right[tag].dump()};
    }
    for (const auto& [name, value] : left.items()) {
        if (name == "base_model_name_or_path" || name == "task_type") continue;
        if (comparable(name, value) == comparable(name, right[name])) continue;
        out.push_back(name + ": " + value.dump() + " against " + right[name].dump());
    }
    return out;
}

}  // namespace qlora::adapters
