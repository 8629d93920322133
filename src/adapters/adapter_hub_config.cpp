#include <algorithm>
#include <array>
#include <cmath>

#include "adapter_hub.h"
#include "qlora/core/log.h"
#include "qlora/core/nearest.h"

namespace qlora::adapters::adapter_hub {
namespace {

constexpr const char* kVersion = "adapters.1.3.0";  // whose files these are
constexpr const char* kConfig = "config";

/// All fields of BnConfig, also those that are not built here, at their defaults.
class BnConfigWriter : public FieldWriter {
  public:
    void fixed(const char* name, const Json& default_value, const char*) { out[name] = default_value; }
};

/// The kind whose networks stand there; none: seq_bn, for whose places the others are faults then.
BottleneckKind kind_of(const BottleneckConfig& config) {
    for (const auto& [name, kind] : enum_table(BottleneckKind{})) {
        const BottleneckPlaces places = places_of(kind);
        if (config.mh_adapter == places.mh_adapter && config.output_adapter == places.output_adapter &&
            config.is_parallel == places.is_parallel &&
            config.original_ln_before == places.original_ln_before)
            return kind;
    }
    return BottleneckKind::kSeq;
}

/// BnConfig's own defaults are those of no kind.
void take_defaults(BottleneckConfig& config, FaultList& faults) {
    if (!config.is_parallel) config.is_parallel = false;
    if (!config.original_ln_before) config.original_ln_before = false;
    if (!config.scaling) config.scaling.emplace(1.0);
    if (!config.init_weights) config.init_weights = BottleneckInit::kBert;
    const auto require = [&](const char* name, bool is_given) {
        if (!is_given) faults.add(std::string(kConfig) + "." + name, "is required");
    };
    require("mh_adapter", config.mh_adapter.has_value());
    require("output_adapter", config.output_adapter.has_value());
    require("reduction_factor", config.reduction_factor.has_value());
    require("non_linearity", config.non_linearity.has_value());
}

/// Fields of BnConfig, without what says only how an adapter that is there came about.
Json fields_of(const Json& json, const std::string& name, FaultList& faults) {
    Json fields = json.at(kConfig);
    if (!fields.is_object()) {
        faults.add(kConfig, wrong_type("an object", fields));
        return Json::object();
    }
    const Json architecture = fields.value("architecture", Json());
    if (!architecture.is_null()) {
        faults.add("config.architecture",
                   "is " + architecture.dump() + ": of AdapterHub's methods bottlenecks alone are read here");
    }
    fields.erase("architecture");
    fields.erase("init_weights_seed");
    const Json act = fields.value("non_linearity", Json());
    if (!json.contains("version") && (act == "gelu" || act == "gelu_orig")) {
        faults.add("config.non_linearity", "is " + act.dump() + " in a file without a version (" + name +
                                               "), which AdapterHub renames; save the adapter again with "
                                               "adapters 1.3.0");
    }
    return fields;
}

}  // namespace

bool is_config(const Json& json) {
    return json.is_object() && !json.contains(BottleneckConfig::kTagName) && json.contains(kConfig);
}

bool is_folder(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / "adapter_config.json";
    return std::filesystem::exists(file) && is_config(read_json_file(file));
}

BottleneckConfig parse_config(const Json& json, const std::string& name) {
    BottleneckConfig config;
    config.task_type.reset();
    ReadState state;
    const Json fields = fields_of(json, name, state.faults);
    FieldReader reader(fields, kConfig, state);
    BottleneckConfig::bn_fields(config, reader);
    for (const std::string& key : reader.unknown_keys()) {
        if (is_empty_value(fields[key])) {
            spdlog::info("{}: the unknown field \"{}\" switches nothing on and is passed over", name, key);
        } else {
            state.faults.add(std::string(kConfig) + "." + key,
                             "is not known to this version and may change what the adapter computes" +
                                 did_you_mean(key, reader.known_keys()));
        }
    }
    if (state.faults.empty()) take_defaults(config, state.faults);
    config.config = kind_of(config);
    check_config(config, kConfig, state.faults);
    const auto text = [&](const char* key) {
        const Json value = json.value(key, Json());
        return value.is_string() ? value.get<std::string>() : std::string();
    };
    if (text("name").empty()) state.faults.add("name", "is required: the tensors' names hold it");
    state.faults.throw_if_any<CheckpointError>(name);
    if (const std::string base = text("model_name"); !base.empty()) config.base_model_name_or_path = base;
    const Json hidden = json.value("hidden_size", Json());
    if (hidden.is_number_integer()) config.hidden_size = hidden.get<std::int64_t>();
    config.model_type = text("model_type");
    config.model_class = text("model_class");
    return completed(config);
}

std::string config_text(const BottleneckConfig& given) {
    BottleneckConfig config = completed(given);
    const BottleneckPlaces places = places_of(config.config);
    config.mh_adapter = places.mh_adapter;
    config.output_adapter = places.output_adapter;
    config.is_parallel = places.is_parallel;
    config.original_ln_before = places.original_ln_before;
    BnConfigWriter writer;
    BottleneckConfig::bn_fields(config, writer);
    // The package tells a number of kind float from others in `scaling` alone.
    constexpr double kLargestExact = 9007199254740992.0;
    const double factor = config.reduction_factor->value;
    if (std::floor(factor) == factor && factor < kLargestExact)
        writer.out["reduction_factor"] = static_cast<std::int64_t>(factor);
    const auto or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
    const Json base = config.base_model_name_or_path ? Json(*config.base_model_name_or_path) : Json();
    const Json out = {{kConfig, writer.out},
                      {"hidden_size", config.hidden_size},
                      {"model_class", or_null(config.model_class)},
                      {"model_name", base},
                      {"model_type", or_null(config.model_type)},
                      {"name", kName},
                      {"version", kVersion}};
    return nlohmann::json(out).dump(2, ' ', true);  // which sorts
}

std::string key_of(const std::string& module, const std::string& tensor) {
    return module + ".adapters." + kName + "." + tensor;
}

std::string our_key(std::string key, const std::string& name) {
    const std::string theirs = ".adapters." + name + ".";
    const std::size_t found = key.find(theirs);
    if (found != std::string::npos)
        key.replace(found, theirs.size(), std::string(".adapters.") + kName + ".");
    return key;
}

bool knows(const std::string& model_type) {
    constexpr std::array kTypes = {"gpt2",        "llama", "mistral", "gemma2",
                                   "gemma3_text", "phi",   "qwen2",   "qwen3"};
    return std::find(kTypes.begin(), kTypes.end(), model_type) != kTypes.end();
}

}  // namespace qlora::adapters::adapter_hub
