#include "qlora/core/fields.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "qlora/core/nearest.h"

namespace qlora {
namespace {

// 8 for 8.0 and 0.0002 for 2e-4: the shortest text that reads well in a sentence.
std::string number_text(double value) {
    std::ostringstream out;
    out.precision(12);
    out << value;
    return out.str();
}

std::string last_part(const std::string& path) {
    return path.substr(path.rfind('.') + 1);
}

}  // namespace

std::string wrong_type(const std::string& kind, const Json& value) {
    constexpr std::size_t kLongest = 60;
    std::string shown = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (shown.size() > kLongest) shown = shown.substr(0, kLongest) + "...";
    return "must be " + kind + ", not " + shown;
}

std::string range_text(const FieldRule& rule) {
    std::string out;
    if (std::isfinite(rule.min)) out = (rule.min_excluded ? "> " : ">= ") + number_text(rule.min);
    if (std::isfinite(rule.max)) {
        out +=
            std::string(out.empty() ? "" : ", ") + (rule.max_excluded ? "< " : "<= ") + number_text(rule.max);
    }
    if (rule.power_of_two) out += out.empty() ? "a power of two" : ", a power of two";
    return out;
}

std::string range_problem(double value, const FieldRule& rule) {
    const bool below = rule.min_excluded ? value <= rule.min : value < rule.min;
    const bool above = rule.max_excluded ? value >= rule.max : value > rule.max;
    const bool odd_power =
        rule.power_of_two && (value < 1 || std::exp2(std::round(std::log2(value))) != value);
    if (!below && !above && !odd_power && !std::isnan(value)) return "";
    return "must be " + range_text(rule) + ", not " + number_text(value);
}

std::string FieldType<bool>::read(const Json& value, const FieldRule&, bool& out) {
    if (!fits(value)) return wrong_type(kind(), value);
    out = value.get<bool>();
    return "";
}

std::string FieldType<std::int64_t>::read(const Json& value, const FieldRule& rule, std::int64_t& out) {
    if (!fits(value)) return wrong_type(kind(), value);
    const bool too_large =
        value.is_number_unsigned() &&
        value.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()};
    if (too_large) return wrong_type("an integer below 2^63", value);
    const auto number = value.get<std::int64_t>();
    std::string problem = range_problem(static_cast<double>(number), rule);
    if (problem.empty()) out = number;
    return problem;
}

std::string FieldType<double>::read(const Json& value, const FieldRule& rule, double& out) {
    if (!fits(value)) return wrong_type(kind(), value);
    const auto number = value.get<double>();
    std::string problem = range_problem(number, rule);
    if (problem.empty()) out = number;
    return problem;
}

std::string FieldType<std::string>::read(const Json& value, const FieldRule&, std::string& out) {
    if (!fits(value)) return wrong_type(kind(), value);
    out = value.get<std::string>();
    return "";
}

std::string FieldType<std::filesystem::path>::read(const Json& value, const FieldRule&,
                                                   std::filesystem::path& out) {
    if (!fits(value)) return wrong_type(kind(), value);
    const auto& text = value.get_ref<const std::string&>();
    if (text.empty()) return "must not be empty";
    if (text.find('\0') != std::string::npos) return "must not contain a NUL character";
    out = text;
    return "";
}

Json enum_text_to_json(std::string_view text) {
    if (text == "true") return true;
    if (text == "false") return false;
    return std::string(text);
}

namespace {

std::string one_of(const std::vector<std::string>& names) {
    std::string choices;
    for (const std::string& name : names)
        choices += (choices.empty() ? "" : ", ") + enum_text_to_json(name).dump();
    return "one of " + choices;
}

}  // namespace

std::string wrong_choice(const std::vector<std::string>& names, const Json& value,
                         const std::vector<std::string>& aliases) {
    std::string choices = one_of(names);
    if (!aliases.empty()) {
        choices += " (or another name of these: ";
        for (const std::string& alias : aliases) choices += (alias == aliases.front() ? "" : ", ") + alias;
        choices += ")";
    }
    std::string hint;
    if (value.is_string()) {
        const auto& text = value.get_ref<const std::string&>();
        const std::string literal = lower_case(text);
        const bool is_literal = (literal == "true" || literal == "false") &&
                                std::find(names.begin(), names.end(), literal) != names.end();
        std::vector<std::string> known = names;
        known.insert(known.end(), aliases.begin(), aliases.end());
        hint = is_literal ? "; write " + literal + " without quotes" : did_you_mean(text, known);
    }
    return wrong_type(choices, value) + hint;
}

std::string unbuilt_choice(const std::vector<std::string>& names, const Json& value,
                           std::string_view reason) {
    return wrong_type(names.size() == 1 ? enum_text_to_json(names.front()).dump() : one_of(names), value) +
           ": " + std::string(reason);
}

bool is_empty_value(const Json& value) {
    if (value.is_boolean()) return !value.get<bool>();
    if (value.is_number()) return value.get<double>() == 0;
    if (value.is_string()) return value.get_ref<const std::string&>().empty();
    return value.empty();
}

const Json* FieldReader::find(const char* name, bool required) {
    names_.emplace_back(name);
    const auto at = object_.find(name);
    if (at == object_.end()) {
        if (required) state_.faults.add(path_to(name), "is required");
        return nullptr;
    }
    state_.given.insert(path_to(name));
    return &*at;
}

void FieldReader::fixed(const char* name, const Json& default_value, const char* reason) {
    const Json* value = find(name, false);
    if (value == nullptr || *value == default_value) return;
    if (is_empty_value(*value) && is_empty_value(default_value)) return;
    state_.faults.add(path_to(name), wrong_type(default_value.dump(), *value) + ": " + reason);
}

std::string ReadState::hint_for(const std::string& key, const Json& value,
                                const std::vector<std::string>& near) const {
    const std::string meaning = explain_key ? explain_key(key, value) : "";
    if (!meaning.empty()) return ": " + meaning;
    for (const std::string& path : all_paths) {
        if (last_part(path) == key) return "; did you mean \"" + path + "\"?";
    }
    return did_you_mean(key, near);
}

std::vector<std::string> FieldReader::unknown_keys() const {
    std::vector<std::string> unknown;
    for (const auto& [key, value] : object_.items()) {
        if (std::find(names_.begin(), names_.end(), key) == names_.end()) unknown.push_back(key);
    }
    return unknown;
}

void FieldReader::refuse_unknown_keys(const char* tag) {
    const std::vector<std::string>& paths = state_.all_paths;
    for (const std::string& key : unknown_keys()) {
        if (tag != nullptr && std::find(paths.begin(), paths.end(), path_to(key)) != paths.end()) {
            state_.faults.add(path_to(key), std::string("is a setting of another ") + tag);
            continue;
        }
        state_.faults.add(path_to(key), "unknown key" + state_.hint_for(key, object_[key], names_));
    }
}

void apply_override(const std::string& text, const std::vector<std::string>& sections, Json& root,
                    FaultList& faults) {
    const std::size_t equals = text.find('=');
    const std::string path = text.substr(0, equals);
    const std::size_t dot = path.find('.');
    if (equals == std::string::npos || dot == std::string::npos || dot == 0 || dot + 1 == path.size()) {
        faults.add("--set " + text, "must have the form section.key=value");
        return;
    }
    const std::string section = path.substr(0, dot);
    if (std::find(sections.begin(), sections.end(), section) == sections.end()) {
        faults.add("--set " + text, "unknown section \"" + section + "\"" + did_you_mean(section, sections));
        return;
    }
    const std::string value = text.substr(equals + 1);
    const bool must_be_json =
        !value.empty() && std::string_view("{[\"").find(value.front()) != std::string_view::npos;
    Json parsed;
    try {
        parsed = parse_json(value, "--set " + path);
    } catch (const ConfigError& error) {
        if (must_be_json) {
            faults.add("", error.what());
            return;
        }
        parsed = value;
    }
    if (!root.contains(section)) root[section] = Json::object();
    Json& target = root[section];
    // A section of the wrong type is the reader's fault to report.
    if (target.is_object()) target[path.substr(dot + 1)] = std::move(parsed);
}

}  // namespace qlora
