#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "name_pattern.h"
#include "qlora/adapters/lora_config.h"
#include "target_names.h"

namespace qlora::adapters {

inline const NameList* as_list(const ModuleNames& names) {
    return std::get_if<NameList>(&names);
}

inline std::string quoted(const std::string& text) {
    return '"' + text + '"';
}

// The first few paths, for a message.
inline std::string some_of(const NameList& paths) {
    constexpr std::size_t kShown = 3;
    std::string out;
    for (std::size_t i = 0; i < std::min(kShown, paths.size()); ++i) out += (i > 0 ? ", " : "") + paths[i];
    if (paths.size() > kShown) out += " and " + std::to_string(paths.size() - kShown) + " more";
    return out;
}

/// `exclude_modules`, then `modules_to_save`: both keep a module from being adapted.
class Exclusion {
  public:
    explicit Exclusion(const LoraConfig& config) : names_(config.exclude_modules) {
        const auto* regex = std::get_if<std::string>(&names_);
        if (regex != nullptr && !regex->empty()) regex_.emplace(*regex);
        for (const std::string& name : config.modules_to_save.value_or(NameList{})) {
            saved_.emplace_back("(^|.*\\.)" + name + "($|\\..*)");
        }
    }

    bool is_named(const std::string& path) const {
        if (regex_) return regex_->matches_whole(path);
        return as_list(names_) != nullptr && ends_with_any_name(path, *as_list(names_));
    }
    bool holds(const std::string& path) const {
        return is_named(path) || std::any_of(saved_.begin(), saved_.end(), [&](const NamePattern& name) {
                   return name.matches_start(path);
               });
    }

  private:
    ModuleNames names_;
    std::optional<NamePattern> regex_;
    std::vector<NamePattern> saved_;
};

/// `layers_to_transform` and `layers_pattern`.
class LayerChoice {
  public:
    explicit LayerChoice(const LoraConfig& config) {
        if (const auto* one = std::get_if<std::int64_t>(&config.layers_to_transform)) wanted_ = {*one};
        if (const auto* many = std::get_if<std::vector<std::int64_t>>(&config.layers_to_transform))
            wanted_ = *many;
        NameList lists;
        if (const auto* text = std::get_if<std::string>(&config.layers_pattern);
            text != nullptr && !text->empty()) {
            lists = {*text};
        }
        if (as_list(config.layers_pattern) != nullptr) lists = *as_list(config.layers_pattern);
        for (const std::string& list : lists) {
            patterns_.emplace_back("(?:^|.*?\\.)" + list + "\\.(?P<idx>\\d+)\\.");
        }
        // Lazy, so that the first number counts and not an expert's inside the layer.
        if (lists.empty()) patterns_.emplace_back(".*?\\.[^.]*\\.(?P<idx>\\d+)\\.");
    }

    bool restricts() const { return !wanted_.empty(); }
    const std::vector<std::int64_t>& wanted() const { return wanted_; }
    std::optional<std::int64_t> index_of(const std::string& path) const {
        for (const NamePattern& pattern : patterns_) {
            const std::optional<std::string> digits = pattern.group(path, "idx");
            constexpr std::size_t kMostDigits = 18;
            if (digits) return digits->size() <= kMostDigits ? std::stoll(*digits) : -1;
        }
        return std::nullopt;
    }
    bool holds(const std::string& path) const {
        const std::optional<std::int64_t> index = index_of(path);
        return index && std::find(wanted_.begin(), wanted_.end(), *index) != wanted_.end();
    }

  private:
    std::vector<std::int64_t> wanted_;
    std::vector<NamePattern> patterns_;
};

/// `rank_pattern` or `alpha_pattern`: the first key that matches a path gives its value.
template <class T>
class PatternValues {
  public:
    PatternValues(const char* field, const NamePatterns<T>& patterns) : field_(field) {
        for (const auto& [key, value] : patterns) {
            entries_.push_back({key, value, NamePattern("(.*\\.)?(" + key + ")$"), 0});
        }
    }

    T value_for(const std::string& path, T otherwise) {
        Entry* first = nullptr;
        for (Entry& entry : entries_) {
            if (!entry.pattern.matches_start(path)) continue;
            ++entry.uses;
            if (first == nullptr) {
                first = &entry;
            } else if (entry.value != first->value) {
                clashes_[{first->key, entry.key}].push_back(path);
            }
        }
        return first == nullptr ? otherwise : first->value;
    }

    void add_warnings(std::vector<std::string>& warnings) const {
        for (const Entry& entry : entries_) {
            if (entry.uses == 0)
                warnings.push_back(field_ + ": " + quoted(entry.key) + " matches no adapted module");
        }
        for (const auto& [keys, paths] : clashes_) {
            warnings.push_back(field_ + ": " + quoted(keys.first) + " and " + quoted(keys.second) +
                               " give different values to " + some_of(paths) + "; the first key is used");
        }
    }

  private:
    struct Entry {
        std::string key;
        T value;
        NamePattern pattern;
        std::int64_t uses;
    };
    std::string field_;
    std::vector<Entry> entries_;
    std::map<std::pair<std::string, std::string>, NameList> clashes_;
};

}  // namespace qlora::adapters
