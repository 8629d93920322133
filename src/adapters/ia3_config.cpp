#include "qlora/adapters/ia3_config.h"

#include "name_checks.h"

namespace qlora::adapters {

void check_config(const Ia3Config& config, const std::string& path, FaultList& faults) {
    const std::string target = path_to(path, "target_modules");
    const std::string feedforward = path_to(path, "feedforward_modules");
    const auto* targets = std::get_if<NameList>(&config.target_modules);
    if (targets != nullptr && targets->empty())
        faults.add(target, "is an empty list, so nothing would train; leave it out for PEFT's choice");
    check_module_names(config.target_modules, target, faults);
    check_module_names(config.feedforward_modules, feedforward, faults);
    check_module_names(config.exclude_modules, path_to(path, "exclude_modules"), faults);
    check_saved_modules(config.modules_to_save, path_to(path, "modules_to_save"), faults);
    const auto* inner = std::get_if<NameList>(&config.feedforward_modules);
    if (targets == nullptr || inner == nullptr) return;
    for (const std::string& name : *inner) {
        if (std::find(targets->begin(), targets->end(), name) == targets->end())
            faults.add(feedforward, "\"" + name + "\" is not one of target_modules");
    }
}

}  // namespace qlora::adapters
