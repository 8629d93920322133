#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "qlora/adapters/target_matching.h"
#include "qlora/core/nearest.h"

namespace qlora::adapters {

// How PEFT turns `target_modules` into the list of names it matches and saves.

inline bool ends_with_name(const std::string& path, const std::string& name) {
    if (path == name) return true;
    return path.size() > name.size() && path.ends_with(name) && path[path.size() - name.size() - 1] == '.';
}

inline bool ends_with_any_name(const std::string& path, const NameList& names) {
    return std::any_of(names.begin(), names.end(),
                       [&](const auto& name) { return ends_with_name(path, name); });
}

inline bool is_all_linear(const ModuleNames& names) {
    const auto* text = std::get_if<std::string>(&names);
    return text != nullptr && lower_case(*text) == "all-linear";
}

inline std::string text_of(const NameList& names) {
    std::string out;
    for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
    return out;
}

// "c", "b.c", "a.b.c" for "a.b.c".
inline NameList endings_of(const std::string& path) {
    NameList endings;
    for (std::size_t dot = path.rfind('.'); dot != std::string::npos;
         dot = dot == 0 ? std::string::npos : path.rfind('.', dot - 1)) {
        endings.push_back(path.substr(dot + 1));
    }
    endings.push_back(path);
    return endings;
}

/// The shortest endings that still tell the targets from all other modules. Long lists only: PEFT leaves
/// those of less than 20 names as they are.
inline NameList shortened(const NameList& targets, const std::vector<ModuleInfo>& modules) {
    constexpr std::size_t kShortestLong = 20;
    const std::set<std::string> names(targets.begin(), targets.end());
    if (names.size() < kShortestLong) return targets;
    std::set<std::string> other_endings;
    for (const ModuleInfo& module : modules) {
        const NameList endings = endings_of(module.path);
        const bool is_target = std::any_of(endings.begin(), endings.end(),
                                           [&](const std::string& ending) { return names.contains(ending); });
        if (!is_target) other_endings.insert(endings.begin(), endings.end());
    }
    std::set<std::pair<NameList, std::string>> by_endings;
    for (const std::string& name : names) by_endings.emplace(endings_of(name), name);
    NameList kept;
    for (const auto& [endings, name] : by_endings) {
        for (const std::string& ending : endings) {
            const bool is_kept = std::find(kept.begin(), kept.end(), ending) != kept.end();
            if (is_kept || other_endings.contains(ending)) continue;
            const bool is_covered = std::any_of(kept.begin(), kept.end(), [&](const std::string& shorter) {
                return name != shorter && ends_with_name(name, shorter);
            });
            if (!is_covered) {
                kept.push_back(ending);
                break;
            }
        }
    }
    return kept.empty() || kept.size() >= names.size() ? targets : kept;
}

}  // namespace qlora::adapters
