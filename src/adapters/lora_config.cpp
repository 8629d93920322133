#include "qlora/adapters/lora_config.h"

#include "name_checks.h"

namespace qlora::adapters {
namespace {

template <class T>
void check_patterns(const NamePatterns<T>& patterns, const std::string& place, FaultList& faults) {
    for (const auto& [key, value] : patterns) check_regex("(.*\\.)?(" + key + ")$", place, faults);
}

bool is_given(const ModuleNames& names) {
    if (const auto* text = std::get_if<std::string>(&names)) return !text->empty();
    if (const auto* list = std::get_if<NameList>(&names)) return !list->empty();
    return false;
}

}  // namespace

void check_config(const LoraConfig& config, const std::string& path, FaultList& faults) {
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
    if (config.use_dora && config.lora_bias)
        faults.add(path_to(path, "lora_bias"), "cannot be combined with use_dora, as in PEFT");
    if (config.lora_bias && config.init_lora_weights == InitLoraWeights::kGaussian) {
        faults.add(path_to(path, "lora_bias"),
                   "cannot be combined with init_lora_weights \"gaussian\", as in PEFT");
    }
    if (has_parameters && (config.use_dora || config.lora_bias)) {
        faults.add(path_to(path, config.use_dora ? "use_dora" : "lora_bias"),
                   "cannot be combined with target_parameters, as in PEFT");
    }
    check_module_names(config.exclude_modules, path_to(path, "exclude_modules"), faults);
    check_saved_modules(config.modules_to_save, path_to(path, "modules_to_save"), faults);

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

}  // namespace qlora::adapters
