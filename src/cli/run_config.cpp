#include "qlora/cli/run_config.h"

#include <algorithm>
#include <cstdlib>

#include "qlora/core/log.h"
#include "qlora/core/nearest.h"
#include "qlora/quant/bnb_config.h"
#include "run_config_checks.h"
#include "run_config_foreign.h"

namespace qlora::cli {
namespace {

std::vector<std::string> section_names() {
    std::vector<std::string> names;
    RunConfig::sections(RunConfig{}, [&](const char* name, const auto&, bool) { names.emplace_back(name); });
    return names;
}

std::vector<std::string> all_paths() {
    std::vector<std::string> paths;
    RunConfig::sections(RunConfig{}, [&]<class Section>(const char* name, const Section&, bool) {
        for_each_alternative<Section>([&]<class Struct>() {
            for (const FieldInfo& info : list_fields<Struct>())
                paths.push_back(std::string(name) + "." + info.name);
        });
    });
    return paths;
}

// A setting at the top level belongs into a section; name it.
void refuse_unknown_sections(const Json& root, ReadState& state) {
    const std::vector<std::string> names = section_names();
    for (const auto& [key, value] : root.items()) {
        if (std::find(names.begin(), names.end(), key) != names.end()) continue;
        state.faults.add(key, "unknown section" + state.hint_for(key, value, names));
    }
}

// An optimizer's name of another program: the log says which of ours it is.
void tell_optimizer(const Json& root, const train::TrainingConfig& training) {
    const Json section = root.value("training", Json());
    const Json given = section.is_object() ? section.value("optim", Json()) : Json();
    const std::string name(enum_name(training.optim));
    if (!given.is_string() || given == Json(name)) return;
    const auto& text = given.get_ref<const std::string&>();
    const bool is_paged = text.rfind("paged_", 0) == 0;
    spdlog::info("training.optim: {} is {} here{}", text, name,
                 is_paged ? "; paging is not needed, the moments of adapters are small" : "");
}

// "~" and "~/..." as a shell reads them: no shell sees what a file holds.
std::filesystem::path with_home(const std::filesystem::path& path) {
    const char* home = std::getenv("HOME");
    const std::string text = path.string();
    if (home == nullptr || *home == '\0' || (text != "~" && !text.starts_with("~/"))) return path;
    return home + text.substr(1);
}

void make_absolute(std::filesystem::path& path, const std::filesystem::path& folder) {
    path = (folder / with_home(path)).lexically_normal();
    if (!path.has_filename() && path.has_relative_path())
        path = path.parent_path();  // "runs/a/" and "runs/a" are one
}

void resolve_paths(RunConfig& config, const std::filesystem::path& folder) {
    make_absolute(config.model.path, folder);
    if (config.model.adapter) make_absolute(*config.model.adapter, folder);
    for (std::filesystem::path& file : config.data.train.files) make_absolute(file, folder);
    if (config.data.eval_file() != nullptr)
        make_absolute(std::get<std::filesystem::path>(*config.data.eval), folder);
    if (!config.data.template_.file.empty()) make_absolute(config.data.template_.file, folder);
    make_absolute(config.training.output_dir, folder);
}

}  // namespace

RunConfig load_run_config(const std::filesystem::path& file, const std::vector<std::string>& overrides,
                          const MoreChecks& more_checks) {
    const std::filesystem::path absolute = std::filesystem::absolute(file).lexically_normal();
    RunConfig config =
        parse_run_config(read_json_file(file), absolute.parent_path(), file.string(), overrides, more_checks);
    config.file = absolute;
    return config;
}

RunConfig parse_run_config(Json root, const std::filesystem::path& folder, const std::string& name,
                           const std::vector<std::string>& overrides, const MoreChecks& more_checks) {
    if (!root.is_object())
        throw ConfigError(name + ": " + wrong_type("an object with the sections of a run", root));
    ReadState state;
    state.all_paths = all_paths();
    state.explain_key = meaning_of_foreign_setting;
    for (const std::string& text : overrides) apply_override(text, section_names(), root, state.faults);
    refuse_unknown_sections(root, state);

    RunConfig config;
    RunConfig::sections(config, [&](const char* section_name, auto& section, bool is_required) {
        if (root.contains(section_name)) {
            read_fields(root[section_name], section_name, section, state);
        } else if (is_required) {
            read_fields(Json::object(), section_name, section, state);  // names the settings that are missing
        }
    });
    config.has_peft_section = root.contains("peft");
    config.given = state.given;
    resolve_defaults(config, state);
    resolve_paths(config, folder);
    check_combinations(config, state.faults);
    if (more_checks) more_checks(config, state.faults);
    state.faults.throw_if_any<ConfigError>(name);
    tell_optimizer(root, config.training);
    return config;
}

quant::QuantConfig quant_config_from_overrides(const std::vector<std::string>& overrides) {
    ReadState state;
    Json root = Json::object();
    for (const std::string& text : overrides) apply_override(text, {"quantization"}, root, state.faults);
    quant::QuantConfig config;
    if (root.contains("quantization")) read_fields(root["quantization"], "quantization", config, state);
    state.faults.throw_if_any<ConfigError>("--set");
    return config;
}

void adopt_adapter_config(RunConfig& config) {
    if (!config.model.adapter) return;
    const std::filesystem::path file = *config.model.adapter / "adapter_config.json";
    const adapters::PeftConfig adapter = adapters::read_adapter_config(file);
    FaultList faults;
    if (config.has_peft_section) {
        for (const std::string& difference : adapters::differences(config.peft, adapter)) {
            faults.add("", "peft." + difference +
                               " in the adapter; leave the peft section out to go on from an adapter");
        }
    }
    faults.throw_if_any<ConfigError>(file.string());
    // The base's name is this run's own, not that of the run which made the adapter.
    const std::optional<std::string> base = adapters::base_name(config.peft);
    config.peft = adapter;
    adapters::base_name(config.peft) = base;
    if (!config.given.contains("training.learning_rate"))
        config.training.learning_rate = adapters::default_learning_rate(config.peft);
}

void adopt_stored_quantization(RunConfig& config, const std::optional<quant::QuantConfig>& stored) {
    if (!stored) return;
    FaultList faults;
    for (const std::string& text : quant::contradictions(config.quantization, *stored)) {
        const std::string setting = "quantization." + text.substr(0, text.find(':'));
        if (config.given.contains(setting)) faults.add("", "quantization." + text);
    }
    faults.throw_if_any<ConfigError>(config.file.string() + " does not fit the 4-bit weights of " +
                                     config.model.path.string() +
                                     " (leave the setting out, or use the original model)");
    const quant::ComputeDtype compute = config.quantization.bnb_4bit_compute_dtype;
    config.quantization = *stored;
    config.quantization.bnb_4bit_compute_dtype = compute;
}

void check_device(const RunConfig& config, bool is_gpu) {
    if (!is_gpu && config.quantization.bnb_4bit_compute_dtype == quant::ComputeDtype::kFloat16) {
        throw ConfigError(config.file.string() +
                          ": quantization.bnb_4bit_compute_dtype: " + kFloat16NeedsGpu);
    }
}

Json run_config_json(const RunConfig& config) {
    Json root = Json::object();
    RunConfig::sections(
        config, [&](const char* name, const auto& section, bool) { root[name] = write_fields(section); });
    return root;
}

std::vector<std::string> resume_differences(const RunConfig& saved, const RunConfig& now) {
    const Json before = run_config_json(saved);
    const Json after = run_config_json(now);
    std::vector<std::string> out;
    RunConfig::sections(now, [&](const char* name, const auto& section, bool) {
        for (const FieldInfo& info : list_fields_of(section)) {
            if (info.fixed || info.free_on_resume) continue;
            // Settings that another method does not have: that the method differs is told by peft_type.
            if (!before[name].contains(info.name)) continue;
            const Json& old_value = before[name][info.name];
            const Json& new_value = after[name][info.name];
            if (old_value == new_value) continue;
            out.push_back(std::string(name) + "." + info.name + ": " + old_value.dump() + " in the run, " +
                          new_value.dump() + " now");
        }
    });
    // Another held-out file changes no training; other rows held out of the training files do.
    const bool is_part = saved.data.eval_part() != nullptr || now.data.eval_part() != nullptr;
    if (is_part && saved.data.eval != now.data.eval) {
        out.push_back("data.eval: " + before["data"]["eval"].dump() + " in the run, " +
                      after["data"]["eval"].dump() + " now");
    }
    return out;
}

}  // namespace qlora::cli
