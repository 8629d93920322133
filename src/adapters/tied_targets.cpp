#include "tied_targets.h"

#include <algorithm>
#include <array>

#include "module_choice.h"
#include "name_pattern.h"
#include "target_names.h"

namespace qlora::adapters {
namespace {

/// The names by which PEFT knows tables: GPT-2's wte, say, is none.
constexpr std::array kTableNames = {"embed_tokens", "lm_head"};

bool is_table_name(const std::string& path) {
    const std::string last = path.substr(path.rfind('.') + 1);
    return std::find(kTableNames.begin(), kTableNames.end(), last) != kTableNames.end();
}

bool targets_table(const ModuleNames& names) {
    if (const NameList* list = as_list(names)) return names_table(*list);
    const auto* regex = std::get_if<std::string>(&names);
    if (regex == nullptr || is_all_linear(names)) return false;
    const NamePattern pattern(*regex);
    return std::any_of(kTableNames.begin(), kTableNames.end(),
                       [&](const char* name) { return pattern.matches_whole(name); });
}

/// As Python's re.escape, for a module's path.
std::string escaped(const std::string& path) {
    std::string out;
    for (const char c : path) out += c == '.' ? std::string("\\.") : std::string(1, c);
    return out;
}

void add_embedding(ModuleNames& names, const std::string& embedding, const std::string& head) {
    if (auto* regex = std::get_if<std::string>(&names)) {
        const std::string added = "|^" + escaped(embedding) + "$)";
        if (!regex->ends_with(added)) *regex = "(?:" + *regex + added;
        return;
    }
    auto& list = std::get<NameList>(names);
    if (std::find(list.begin(), list.end(), embedding) == list.end()) list.push_back(embedding);
    std::erase_if(list, [&](const std::string& name) { return ends_with_name(head, name); });
}

}  // namespace

bool names_table(const NameList& names) {
    return std::any_of(names.begin(), names.end(), is_table_name);
}

bool settle_tying(const AdaptableModel& model, LoraConfig& config, std::vector<std::string>& warnings,
                  FaultList& faults) {
    if (!config.ensure_weight_tying) return false;
    if (!model.tied) {
        warnings.push_back("ensure_weight_tying: embedding and head of this model are two tensors");
        return false;
    }
    if (names_table(config.modules_to_save.value_or(NameList{}))) {
        faults.add("ensure_weight_tying",
                   "training a tied embedding and head whole together is not built; adapt them through "
                   "target_modules, or leave it out");
        return false;
    }
    if (!targets_table(config.target_modules)) {
        warnings.push_back("ensure_weight_tying: target_modules names neither embed_tokens nor lm_head");
        return false;
    }
    const auto path_where = [&](const auto& holds) {
        const auto found = std::find_if(model.modules.begin(), model.modules.end(), holds);
        return found == model.modules.end() ? std::string() : found->path;
    };
    add_embedding(config.target_modules, path_where([](const ModuleInfo& m) { return m.is_embedding; }),
                  path_where([](const ModuleInfo& m) { return m.is_output_embedding; }));
    return true;
}

void warn_of_tie(const AdaptableModel& model, const std::vector<Target>& targets,
                 std::vector<std::string>& warnings) {
    const bool has_table = std::any_of(targets.begin(), targets.end(), [](const Target& target) {
        return target.is_embedding || target.is_head;
    });
    if (!model.tied || !has_table) return;
    warnings.push_back(
        "target_modules: embedding and head are one tensor of this model, but not their adapters: merging "
        "makes two tensors of it. With ensure_weight_tying both share one adapter");
}

std::string table_fault(const AdaptableModel& model, const ModuleInfo& module, const LoraConfig& config) {
    const std::string leave_out = "; leave it out of target_modules";
    if (!model.tables) {
        return "adapting " + module.path + " is not built" + leave_out +
               ", or train it whole through modules_to_save";
    }
    if (module.is_embedding && !module.not_whole.empty())
        return "LoRA on learned positions (" + module.path + ") is not built" + leave_out;
    if (config.use_dora)
        return "use_dora is not built for " + module.path + leave_out + ", or train it whole";
    if (module.is_embedding && config.lora_bias)
        return "lora_bias cannot be used on an embedding (" + module.path + "), as in PEFT" + leave_out;
    if (module.is_output_embedding && !module.not_whole.empty() && config.bias == BiasTraining::kLoraOnly)
        return "bias: \"lora_only\" would train " + module.path + ".bias too, which is not built; use none";
    return {};
}

}  // namespace qlora::adapters
