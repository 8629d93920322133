#pragma once

#include <algorithm>
#include <optional>
#include <string>

#include "name_pattern.h"
#include "qlora/adapters/peft_types.h"
#include "qlora/core/error.h"

// Faults of names and patterns that a configuration gives.
namespace qlora::adapters {

/// The place of a setting for a fault.
inline std::string path_to(const std::string& path, const std::string& name) {
    return path.empty() ? name : path + "." + name;
}

inline void check_regex(const std::string& regex, const std::string& place, FaultList& faults) {
    try {
        NamePattern{regex};
    } catch (const ConfigError& error) {
        faults.add(place, error.what());
    }
}

inline void check_names(const NameList& names, const std::string& place, FaultList& faults) {
    const bool has_empty = std::find(names.begin(), names.end(), "") != names.end();
    if (has_empty) faults.add(place, "must not contain an empty name");
}

/// A string is a regular expression, a list holds plain names.
inline void check_module_names(const ModuleNames& names, const std::string& place, FaultList& faults) {
    if (const auto* regex = std::get_if<std::string>(&names)) check_regex(*regex, place, faults);
    if (const auto* list = std::get_if<NameList>(&names)) check_names(*list, place, faults);
}

/// `modules_to_save`, whose names PEFT makes patterns of.
inline void check_saved_modules(const std::optional<NameList>& names, const std::string& place,
                                FaultList& faults) {
    if (!names) return;
    for (const std::string& name : *names) check_regex("(^|.*\\.)" + name + "($|\\..*)", place, faults);
    check_names(*names, place, faults);
}

}  // namespace qlora::adapters
