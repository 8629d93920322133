#include "qlora/adapters/target_matching.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "former_linears.h"
#include "module_choice.h"
#include "name_pattern.h"
#include "qlora/core/nearest.h"
#include "target_names.h"
#include "tied_targets.h"

namespace qlora::adapters {
namespace {

class Matcher {
  public:
    Matcher(const LoraConfig& config, const AdaptableModel& model)
        : config_(config), model_(model), modules_(model.modules), exclusion_(config), layers_(config) {
        result_.expanded = config;
        result_.shares_tables = settle_tying(model, result_.expanded, result_.warnings, faults_);
        expand_targets(model);
        if (!model.former_linears.empty()) settle_former_linears(model, result_.expanded, faults_);
        if (const auto* regex = std::get_if<std::string>(&result_.expanded.target_modules))
            regex_.emplace(*regex);
    }

    MatchResult run() {
        check_list_entries();
        match_targets();
        if (!result_.shares_tables) warn_of_tie(model_, result_.targets, result_.warnings);
        match_modules_to_save();
        check_layers();
        warn_of_unused_exclusions();
        faults_.throw_if_any<ConfigError>("the LoRA configuration does not fit the model");
        return std::move(result_);
    }

  private:
    void expand_targets(const AdaptableModel& model) {
        ModuleNames& target = result_.expanded.target_modules;
        if (std::holds_alternative<std::monostate>(target) && adapts_parameters()) {
            target = NameList{};
        } else if (std::holds_alternative<std::monostate>(target)) {
            target = model.default_targets;
            if (model.default_targets.empty()) {
                faults_.add("target_modules", "is missing, and PEFT has no default for the architecture " +
                                                  quoted(model.model_type) + "; name some of its linears (" +
                                                  text_of(names_to_choose()) + ") or \"all-linear\"");
            }
        } else if (is_all_linear(target) && !model.former_linears.empty()) {
            target = names_to_choose();
        } else if (is_all_linear(target)) {
            NameList linears;
            for (const ModuleInfo& module : modules_) {
                if (module.is_linear && !module.is_output_embedding) linears.push_back(module.path);
            }
            target = std::move(linears);
        }
        if (const NameList* list = as_list(target)) {
            NameList once;
            std::set<std::string> seen;
            for (const std::string& name : *list) {
                if (seen.insert(name).second) once.push_back(name);
            }
            target = model.is_part ? once : shortened(once, modules_);
        }
    }

    bool adapts_parameters() const {
        return config_.target_parameters && !config_.target_parameters->empty();
    }

    bool is_targeted(const std::string& path) const {
        if (regex_) return regex_->matches_whole(path);
        const NameList& names = *as_list(result_.expanded.target_modules);
        if (std::find(names.begin(), names.end(), path) != names.end()) return true;
        return ends_with_any_name(path, names) && (!layers_.restricts() || layers_.holds(path));
    }

    // Last parts of the paths of the modules that `holds` chooses, once each.
    NameList last_parts(const auto& holds) const {
        NameList names;
        for (const ModuleInfo& module : modules_) {
            if (!holds(module)) continue;
            const std::string last = module.path.substr(module.path.rfind('.') + 1);
            if (std::find(names.begin(), names.end(), last) == names.end()) names.push_back(last);
        }
        return names;
    }
    // What a user may have meant.
    NameList known_names() const {
        return last_parts([](const ModuleInfo& module) { return module.is_linear; });
    }
    NameList adaptable_names() const {
        return last_parts(
            [](const ModuleInfo& module) { return module.is_linear && !module.is_output_embedding; });
    }

    // Linears, and what PEFT takes for parameters.
    NameList names_to_choose() const {
        NameList names = adaptable_names();
        for (const FormerLinears& former : model_.former_linears)
            names.insert(names.end(), former.names.begin(), former.names.end());
        return names;
    }

    std::string hint_for(const std::string& name) const {
        const NameList known = known_names();
        const std::string near = did_you_mean(name.substr(name.rfind('.') + 1), known);
        if (!near.empty()) return near;
        return "; its linear layers are named " + text_of(known);
    }

    bool any_path(const auto& holds) const {
        return std::any_of(modules_.begin(), modules_.end(),
                           [&](const ModuleInfo& m) { return holds(m.path); });
    }

    void check_list_entries() {
        const NameList* names = as_list(config_.target_modules);
        if (names == nullptr) return;
        if (names->empty() && !adapts_parameters())
            faults_.add("target_modules", "is an empty list, so nothing would train");
        for (const std::string& name : *names) {
            if (any_path([&](const std::string& path) { return ends_with_name(path, name); })) continue;
            if (is_former_linear(model_, name)) continue;
            faults_.add("target_modules", quoted(name) + " matches no module of the model" + hint_for(name));
            has_unknown_target_ = true;
        }
    }

    void match_targets() {
        PatternValues<std::int64_t> ranks("rank_pattern", result_.expanded.rank_pattern);
        PatternValues<double> alphas("alpha_pattern", result_.expanded.alpha_pattern);
        match_modules(ranks, alphas);
        match_parameters(ranks, alphas);
        ranks.add_warnings(result_.warnings);
        alphas.add_warnings(result_.warnings);
    }

    // PEFT asks neither exclude_modules nor layers_to_transform here.
    void match_parameters(PatternValues<std::int64_t>& ranks, PatternValues<double>& alphas) {
        const NameList names = result_.expanded.target_parameters.value_or(NameList{});
        for (const std::string& name : names) {
            const bool is_known = std::any_of(
                model_.parameters.begin(), model_.parameters.end(),
                [&](const ParameterInfo& parameter) { return ends_with_name(parameter.path, name); });
            if (!is_known) faults_.add("target_parameters", quoted(name) + unknown_parameter(model_));
        }
        for (const ParameterInfo& parameter : model_.parameters) {
            if (!ends_with_any_name(parameter.path, names)) continue;
            add_target(parameter.path, ranks, alphas);
            result_.targets.back().is_parameter = true;
        }
        if (names.empty()) return;
        if (layers_.restricts())
            result_.warnings.push_back(
                "layers_to_transform: target_parameters are adapted in all layers, as PEFT does");
    }

    void match_modules(PatternValues<std::int64_t>& ranks, PatternValues<double>& alphas) {
        std::size_t matched = 0;
        for (const ModuleInfo& module : modules_) {
            if (result_.shares_tables && module.is_output_embedding) {
                add_shared_head(module, ranks, alphas);
                continue;
            }
            if (module.path.empty() || exclusion_.holds(module.path) || !is_targeted(module.path)) continue;
            ++matched;
            if (module.is_output_embedding || module.is_embedding) {
                add_table(module, ranks, alphas);
            } else if (!module.is_linear) {
                faults_.add("target_modules", module.path + " is matched but is not a linear layer");
            } else {
                add_target(module.path, ranks, alphas);
            }
        }
        const bool is_silent = matched == 0 && !has_unknown_target_ && faults_.empty() &&
                               result_.expanded.target_parameters.value_or(NameList{}).empty();
        if (is_silent) faults_.add("target_modules", nothing_matched());
    }

    void add_table(const ModuleInfo& module, PatternValues<std::int64_t>& ranks,
                   PatternValues<double>& alphas) {
        const std::string fault = table_fault(model_, module, config_);
        if (!fault.empty()) return faults_.add("target_modules", fault);
        add_target(module.path, ranks, alphas);
        result_.targets.back().is_embedding = module.is_embedding;
        result_.targets.back().is_head = module.is_output_embedding;
    }

    void add_shared_head(const ModuleInfo& head, PatternValues<std::int64_t>& ranks,
                         PatternValues<double>& alphas) {
        const auto embedding = std::find_if(result_.targets.begin(), result_.targets.end(),
                                            [](const Target& target) { return target.is_embedding; });
        if (embedding == result_.targets.end()) {
            if (faults_.empty())
                faults_.add("ensure_weight_tying",
                            "the embedding is left out, whose adapter the head would share");
            return;
        }
        const std::int64_t r = embedding->r;
        add_table(head, ranks, alphas);
        if (result_.targets.back().is_head && result_.targets.back().r != r)
            faults_.add("rank_pattern",
                        "gives the head another r than the embedding, whose matrices it shares");
    }

    void add_target(const std::string& path, PatternValues<std::int64_t>& ranks,
                    PatternValues<double>& alphas) {
        Target target;
        target.path = path;
        target.r = ranks.value_for(path, config_.r);
        target.lora_alpha = alphas.value_for(path, config_.lora_alpha);
        const auto rank = static_cast<double>(target.r);
        target.scaling = target.lora_alpha / (config_.use_rslora ? std::sqrt(rank) : rank);
        result_.targets.push_back(std::move(target));
    }

    std::string nothing_matched() const {
        std::string message = "no module is left to adapt";
        if (const auto* regex = std::get_if<std::string>(&config_.target_modules);
            regex != nullptr && regex_) {
            const bool fits_without_exclusion =
                any_path([&](const auto& path) { return regex_->matches_whole(path); });
            if (!fits_without_exclusion) {
                if (*regex == "all") return message + "; did you mean \"all-linear\"?";
                return message + ": a string must match a whole path such as " + example_path() +
                       "; for the endings of paths use a list, [" + listed(*regex) + "]";
            }
        }
        return message + "; check exclude_modules, modules_to_save and layers_to_transform";
    }

    // The names in "q_proj,v_proj" or "q_proj v_proj", each quoted.
    static std::string listed(const std::string& names) {
        std::string out;
        for (std::size_t begin = 0; begin < names.size();) {
            const std::size_t end = std::min(names.find_first_of(", ;", begin), names.size());
            if (end > begin) out += (out.empty() ? "" : ", ") + quoted(names.substr(begin, end - begin));
            begin = end + 1;
        }
        return out;
    }

    std::string example_path() const {
        const auto at =
            std::find_if(modules_.begin(), modules_.end(), [](const ModuleInfo& m) { return m.is_linear; });
        return at == modules_.end() ? "(the model has no linear layer)" : at->path;
    }

    // PEFT compares plain endings here, without a dot before the name.
    void match_modules_to_save() {
        for (const std::string& name : config_.modules_to_save.value_or(NameList{})) {
            bool is_found = false;
            NameList by_part_of_a_name;
            for (const ModuleInfo& module : modules_) {
                if (!module.path.ends_with(name)) continue;
                is_found = true;
                if (!ends_with_name(module.path, name)) by_part_of_a_name.push_back(module.path);
                save_whole(module);
            }
            if (!is_found) {
                faults_.add("modules_to_save",
                            quoted(name) + " matches no module of the model" + hint_for(name));
            }
            if (!by_part_of_a_name.empty()) {
                result_.warnings.push_back("modules_to_save: " + quoted(name) + " is also the ending of " +
                                           some_of(by_part_of_a_name) +
                                           ", which PEFT and we train whole too");
            }
        }
    }

    void save_whole(const ModuleInfo& module) {
        const bool is_layer =
            module.is_linear || module.is_embedding || module.is_norm || module.is_output_embedding;
        const bool is_adapted = std::any_of(result_.targets.begin(), result_.targets.end(),
                                            [&](const Target& target) { return target.path == module.path; });
        auto& saved = result_.modules_to_save;
        if (!module.not_whole.empty()) {
            faults_.add("modules_to_save", module.path + ": " + module.not_whole);
        } else if (!is_layer) {
            faults_.add("modules_to_save",
                        module.path + " has no weight of its own; name the layers inside it");
        } else if (is_adapted) {
            faults_.add("modules_to_save",
                        module.path + " is adapted by target_modules too; choose one of them");
        } else if (std::find(saved.begin(), saved.end(), module.path) == saved.end()) {
            saved.push_back(module.path);
        }
    }

    void check_layers() {
        const NameList* names = as_list(result_.expanded.target_modules);
        if (!layers_.restricts() || names == nullptr) return;
        std::set<std::int64_t> present;
        for (const ModuleInfo& module : modules_) {
            if (!ends_with_any_name(module.path, *names)) continue;
            if (const auto index = layers_.index_of(module.path)) present.insert(*index);
        }
        for (const std::int64_t index : layers_.wanted()) {
            if (present.contains(index)) continue;
            const std::string range = present.empty() ? "no target lies in a numbered layer"
                                                      : "the targets' layers are numbered " +
                                                            std::to_string(*present.begin()) + " to " +
                                                            std::to_string(*present.rbegin());
            faults_.add("layers_to_transform", "there is no layer " + std::to_string(index) + "; " + range);
        }
    }

    void warn_of_unused_exclusions() {
        if (const NameList* names = as_list(config_.exclude_modules)) {
            for (const std::string& name : *names) {
                if (any_path([&](const std::string& path) { return ends_with_name(path, name); })) continue;
                result_.warnings.push_back("exclude_modules: " + quoted(name) +
                                           " matches no module of the model");
            }
        } else if (const auto* regex = std::get_if<std::string>(&config_.exclude_modules);
                   regex && !regex->empty()) {
            if (any_path([&](const std::string& path) { return exclusion_.is_named(path); })) return;
            result_.warnings.push_back("exclude_modules: " + quoted(*regex) +
                                       " matches no module's whole path");
        }
    }

    const LoraConfig& config_;
    const AdaptableModel& model_;
    const std::vector<ModuleInfo>& modules_;
    Exclusion exclusion_;
    LayerChoice layers_;
    std::optional<NamePattern> regex_;
    MatchResult result_;
    FaultList faults_;
    bool has_unknown_target_ = false;
};

}  // namespace

MatchResult match_targets(const LoraConfig& config, const AdaptableModel& model) {
    return Matcher(config, model).run();
}

}  // namespace qlora::adapters
