#include <algorithm>
#include <array>
#include <set>

#include "../name_pattern.h"
#include "../target_names.h"
#include "../tied_targets.h"
#include "lora.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"

namespace qlora::adapters {
namespace {

/// Starts of A and B after which the tensors say everything.
constexpr std::array kStartsOfTensorsAlone = {"orthogonal", "eva"};

struct ChangedBase {
    const char* name;
    const char* reason;
};
/// Ways to begin that change the weights of the base, so that A and B belong to the changed ones.
constexpr std::array<ChangedBase, 5> kStartsOfChangedBases = {{
    {"pissa", "takes the largest singular parts out of the base's weights"},
    {"olora", "takes the start of the adapter out of the base's weights"},
    {"loftq", "replaces the base's weights by ones that were quantized together with the adapter"},
    {"corda", "takes parts chosen by data out of the base's weights"},
    {"lora_ga", "takes the start of the adapter, made from gradients, out of the base's weights"},
}};

constexpr std::size_t kShownTensors = 3;

std::string list_of(const NameList& names) {
    std::string out;
    for (const std::string& name : names) out += (out.empty() ? "\"" : ", \"") + name + "\"";
    return out;
}

std::string text_of(const Json& config, const char* key) {
    const auto found = config.find(key);
    return found != config.end() && found->is_string() ? found->get<std::string>() : "";
}

void refuse_changed_base(const std::string& setting, const std::string& reason, FaultList& faults) {
    faults.add(setting,
               reason +
                   ", and this adapter belongs to the changed ones; with the base as it is on disk the "
                   "model would not be the one that was trained. In PEFT, save_pretrained with "
                   "path_initial_model_for_weight_conversion makes an ordinary adapter of PiSSA, OLoRA, "
                   "CorDA and LoRA-GA");
}

/// Replaces what only said how training began.
void settle_start(Json& config, FaultList& faults) {
    const std::string start = text_of(config, "init_lora_weights");
    for (const ChangedBase& changed : kStartsOfChangedBases) {
        const bool is_it = start == changed.name || start.starts_with(std::string(changed.name) + "_niter_");
        if (!is_it) continue;
        refuse_changed_base("init_lora_weights", "\"" + start + "\" " + changed.reason, faults);
        config["init_lora_weights"] = true;
        for (const char* settings : {"loftq_config", "corda_config", "lora_ga_config"})
            config.erase(settings);
    }
    if (const auto kasa = config.find("kasa_config"); kasa != config.end() && !is_empty_value(*kasa)) {
        faults.add(
            "kasa_config",
            "KaSA takes the smallest singular parts out of the base's weights, and this adapter belongs to "
            "the changed ones");
        config.erase("kasa_config");
    }
    if (std::find(kStartsOfTensorsAlone.begin(), kStartsOfTensorsAlone.end(), start) !=
        kStartsOfTensorsAlone.end()) {
        config["init_lora_weights"] = true;
        config.erase("eva_config");
    }
}

/// Another task's adapter is ours where its file holds LoRA of our modules alone.
void settle_task(Json& config, const AdapterFile& file, const std::set<std::string>& linears,
                 FaultList& faults) {
    const std::string task = text_of(config, "task_type");
    const auto& known = FieldType<TaskType>::names();
    if (task.empty() || std::find(known.begin(), known.end(), task) != known.end()) return;
    NameList others;
    for (const auto& [key, view] : file.tensors()) {
        if (!linears.contains(lora_module_of(key))) others.push_back(view->name);
    }
    if (others.empty()) {
        spdlog::info("{}: task_type {} is passed over: the file holds LoRA of this model and no head",
                     file.path().string(), task);
    } else {
        const bool has_more = others.size() > kShownTensors;
        if (has_more) others.resize(kShownTensors);
        faults.add("task_type",
                   "\"" + task + "\": the file holds tensors that a causal language model does not have (" +
                       list_of(others) + (has_more ? ", ..." : "") +
                       "), a head for that task say; only CAUSAL_LM can be run");
    }
    config["task_type"] = FieldType<TaskType>::write(TaskType::kCausalLm);
}

/// Where names match nothing here, the tensors say what is adapted.
void settle_targets(LoraConfig& config, const AdapterFile& file, const std::vector<ModuleInfo>& modules,
                    const std::set<std::string>& linears) {
    const auto any_module = [&](const auto& fits) {
        return std::any_of(modules.begin(), modules.end(),
                           [&](const ModuleInfo& module) { return fits(module.path); });
    };
    NameList strange, fitting;
    if (const auto* names = std::get_if<NameList>(&config.target_modules)) {
        for (const std::string& name : *names) {
            const bool fits = any_module([&](const std::string& path) { return ends_with_name(path, name); });
            (fits ? fitting : strange).push_back(name);
        }
    } else if (const auto* regex = std::get_if<std::string>(&config.target_modules);
               regex != nullptr && !is_all_linear(config.target_modules)) {
        const NamePattern pattern(*regex);
        if (!any_module([&](const std::string& path) { return pattern.matches_whole(path); }))
            strange.push_back(*regex);
    }
    if (strange.empty()) return;
    std::set<std::string> adapted;
    for (const auto& [key, view] : file.tensors()) {
        if (const std::string module = lora_module_of(key); linears.contains(module)) adapted.insert(module);
    }
    if (adapted.empty()) return;  // matching says what is wrong
    spdlog::warn("{}: target_modules: {} matches no module of this model; its tensors say what is adapted",
                 file.path().parent_path().string(), list_of(strange));
    fitting.insert(fitting.end(), adapted.begin(), adapted.end());
    config.target_modules = fitting;
}

void settle_saved_modules(LoraConfig& config, const AdapterFile& file,
                          const std::vector<ModuleInfo>& modules) {
    if (!config.modules_to_save) return;
    NameList strange, fitting;
    for (const std::string& name : *config.modules_to_save) {
        const bool fits = std::any_of(modules.begin(), modules.end(),
                                      [&](const ModuleInfo& module) { return module.path.ends_with(name); });
        (fits ? fitting : strange).push_back(name);
    }
    if (strange.empty()) return;
    spdlog::warn("{}: modules_to_save: {} matches no module of this model and is passed over",
                 file.path().parent_path().string(), list_of(strange));
    config.modules_to_save = fitting;
}

}  // namespace

PeftConfig finished_lora(Json json, const AdapterFile& file, const models::DecoderSpec& decoder) {
    const std::vector<ModuleInfo> modules = adaptable_model(decoder).modules;
    std::set<std::string> linears;
    for (const ModuleInfo& module : modules) {
        if (module.is_linear || module.is_embedding) linears.insert(module.path);
    }
    const std::string config_file = (file.path().parent_path() / kAdapterConfigFile).string();
    FaultList faults;
    settle_start(json, faults);
    settle_task(json, file, linears, faults);
    faults.throw_if_any<CheckpointError>(config_file);
    LoraConfig config = std::get<LoraConfig>(parse_adapter_config(json, config_file));
    // Of a tied pair that was trained whole together the file holds both.
    if (names_table(config.modules_to_save.value_or(NameList{}))) config.ensure_weight_tying = false;
    settle_targets(config, file, modules, linears);
    settle_saved_modules(config, file, modules);
    return config;
}

}  // namespace qlora::adapters
