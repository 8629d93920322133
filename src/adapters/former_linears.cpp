#include "former_linears.h"

#include <algorithm>

#include "module_choice.h"
#include "name_pattern.h"
#include "target_names.h"

namespace qlora::adapters {
namespace {

template <class T>
void set_pattern(NamePatterns<T>& patterns, const std::string& key, T value) {
    for (auto& [known, known_value] : patterns) {
        if (known != key) continue;
        known_value = value;
        return;
    }
    patterns.emplace_back(key, value);
}

void add_former_linears(const FormerLinears& former, const NameList& found, LoraConfig& config,
                        NameList& parameters, FaultList& faults) {
    if (found.size() < former.names.size()) {
        faults.add("target_modules", "names " + text_of(found) + " without the rest of " +
                                         text_of(former.names) +
                                         ", which are one parameter in transformers 5 (" + former.parameter +
                                         "); name all of them");
        return;
    }
    parameters.push_back(former.parameter);
    if (former.names.size() == 1) return;
    const auto times = static_cast<std::int64_t>(former.names.size());
    const std::string pattern = ".*\\." + former.parameter;
    set_pattern(config.rank_pattern, pattern, config.r * times);
    set_pattern(config.alpha_pattern, pattern, config.lora_alpha * static_cast<double>(times));
}

void refuse_expression_for_parameters(const NamePattern& pattern, const AdaptableModel& model,
                                      FaultList& faults) {
    for (const ParameterInfo& parameter : model.parameters) {
        const std::string module = parameter.path.substr(0, parameter.path.rfind('.'));
        NameList paths = {parameter.path, module};
        for (const FormerLinears& former : model.former_linears) {
            if (!ends_with_name(parameter.path, former.parameter)) continue;
            for (const std::string& name : former.names) paths.push_back(module + "." + name);
        }
        for (const std::string& path : paths) {
            if (!pattern.matches_whole(path)) continue;
            faults.add("target_modules", "the expression matches " + path +
                                             ", which is a parameter in transformers 5; use a list of "
                                             "names, or target_parameters");
            return;
        }
    }
}

}  // namespace

void settle_former_linears(const AdaptableModel& model, LoraConfig& config, FaultList& faults) {
    ModuleNames& target = config.target_modules;
    if (const auto* regex = std::get_if<std::string>(&target)) {
        const NamePattern pattern(*regex);
        NameList paths;
        for (const ModuleInfo& module : model.modules) {
            const bool is_linear = module.is_linear && !module.is_output_embedding;
            if (is_linear && pattern.matches_whole(module.path)) paths.push_back(module.path);
        }
        refuse_expression_for_parameters(pattern, model, faults);
        // PEFT would read an expression as the names at the ends of what it matches.
        if (!paths.empty()) target = std::move(paths);
        return;
    }
    NameList modules, parameters = config.target_parameters.value_or(NameList{});
    std::vector<NameList> found(model.former_linears.size());
    for (const std::string& name : *as_list(target)) {
        bool is_former = false;
        for (std::size_t i = 0; i < found.size(); ++i) {
            for (const std::string& former : model.former_linears[i].names) {
                if (is_former || !ends_with_name(name, former)) continue;
                is_former = true;
                if (std::find(found[i].begin(), found[i].end(), former) == found[i].end())
                    found[i].push_back(former);
            }
        }
        if (!is_former) modules.push_back(name);
    }
    bool any = false;
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (found[i].empty()) continue;
        any = true;
        add_former_linears(model.former_linears[i], found[i], config, parameters, faults);
    }
    if (!any) return;
    if (config.lora_dropout != 0) {
        faults.add("lora_dropout",
                   "must be 0 where experts or routers are adapted: PEFT adapts them as parameters, which "
                   "have no input of their own");
    }
    target = std::move(modules);
    std::sort(parameters.begin(), parameters.end());
    parameters.erase(std::unique(parameters.begin(), parameters.end()), parameters.end());
    config.target_parameters = std::move(parameters);
}

bool is_former_linear(const AdaptableModel& model, const std::string& name) {
    const auto holds = [&](const FormerLinears& former) { return ends_with_any_name(name, former.names); };
    return std::any_of(model.former_linears.begin(), model.former_linears.end(), holds);
}

std::string unknown_parameter(const AdaptableModel& model) {
    if (model.parameters.empty())
        return " cannot be adapted: the model has no experts; name its linears in target_modules";
    NameList known;
    for (const ParameterInfo& parameter : model.parameters) {
        // What stands behind the layer's number.
        const std::size_t number = parameter.path.find_first_of("0123456789");
        const std::string name = parameter.path.substr(parameter.path.find('.', number) + 1);
        if (std::find(known.begin(), known.end(), name) == known.end()) known.push_back(name);
    }
    return " matches no parameter that can be adapted (" + text_of(known) +
           "); linears are named in target_modules";
}

}  // namespace qlora::adapters
