#include "component_reader.h"

#include <algorithm>
#include <stdexcept>

#include "unicode.h"

namespace qlora::tokenizer {
namespace {

bool says_nothing(const Json& value) {
    return value.is_null() || value == false || value == 0 || value == "" ||
           ((value.is_array() || value.is_object()) && value.empty());
}

}  // namespace

std::optional<std::uint64_t> whole_number(const Json& value) {
    if (!value.is_number_integer() || (!value.is_number_unsigned() && value.get<std::int64_t>() < 0))
        return std::nullopt;
    return value.get<std::uint64_t>();
}

ComponentReader::ComponentReader(const Json& value, std::string path, FaultList& faults)
    : value_(value), path_(std::move(path)), faults_(faults) {
    if (!value_.is_object()) {
        faults_.add(path_, "must be an object");
        checks_unknown_ = false;
    }
}

ComponentReader::~ComponentReader() {
    if (!checks_unknown_) return;
    for (const auto& [name, field] : value_.items()) {
        if (std::find(asked_.begin(), asked_.end(), name) != asked_.end() || says_nothing(field)) continue;
        fault(name, "unknown field; this reader cannot tell what it would change");
    }
}

void ComponentReader::fault(std::string_view field, const std::string& message) {
    if (!value_.is_object()) return;  // that is the fault, and it is listed
    faults_.add(path_.empty() ? std::string(field) : path_ + "." + std::string(field), message);
}

std::string ComponentReader::type() {
    const std::string type = string("type", "");
    if (type.empty() && value_.is_object()) {
        faults_.add("", path_ + " has no type");
        checks_unknown_ = false;
    }
    return type;
}

void ComponentReader::refuse_type(std::string_view type, std::string_view supported) {
    checks_unknown_ = false;
    faults_.add("", path_ + " type '" + std::string(type) + "' is not supported (" + std::string(supported) +
                        " are)");
}

const Json* ComponentReader::find(std::string_view field) {
    if (!value_.is_object()) return nullptr;
    asked_.emplace_back(field);
    const auto found = value_.find(asked_.back());
    return found == value_.end() ? nullptr : &*found;
}

bool ComponentReader::boolean(std::string_view field, std::optional<bool> fallback) {
    const Json* value = find(field);
    if (value != nullptr && value->is_boolean()) return value->get<bool>();
    if (value != nullptr || !fallback) fault(field, value == nullptr ? "missing" : "must be true or false");
    return fallback.value_or(false);
}

std::string ComponentReader::string(std::string_view field, std::optional<std::string> fallback) {
    const Json* value = find(field);
    if (value != nullptr && value->is_string()) return value->get<std::string>();
    if (value != nullptr || !fallback) fault(field, value == nullptr ? "missing" : "must be a string");
    return fallback.value_or("");
}

std::size_t ComponentReader::count(std::string_view field) {
    const Json* value = find(field);
    if (const auto number = value == nullptr ? std::nullopt : whole_number(*value)) return *number;
    fault(field, value == nullptr ? "missing" : "must be a whole number from 0");
    return 0;
}

std::string ComponentReader::character(std::string_view field) {
    std::string text = string(field);
    if (!is_one_character(text)) {
        fault(field, "must be one character");
        return " ";
    }
    return text;
}

const Json::array_t& ComponentReader::list(std::string_view field) {
    static const Json::array_t kEmpty;
    const Json* value = find(field);
    if (value != nullptr && value->is_array()) return value->get_ref<const Json::array_t&>();
    fault(field, value == nullptr ? "missing" : "must be a list");
    return kEmpty;
}

std::optional<Regex> ComponentReader::pattern(std::string_view field) {
    const Json* value = find(field);
    if (value != nullptr && value->is_object() && value->size() == 1 && value->front().is_string()) {
        const auto& [kind, text] = *value->get_ref<const Json::object_t&>().begin();
        if (kind == "String") return Regex::from_literal(text.get<std::string>());
        if (kind == "Regex") return compile(text, field);
    }
    fault(field, value == nullptr ? "missing" : R"(must be {"String": "..."} or {"Regex": "..."})");
    return std::nullopt;
}

std::optional<Regex> ComponentReader::compile(const Json& pattern, std::string_view field) {
    try {
        return Regex::from_oniguruma(pattern.get<std::string>());
    } catch (const std::invalid_argument& error) {
        fault(field,
              "the regular expression " + pattern.dump() + " is not supported: " + std::string(error.what()));
        return std::nullopt;
    }
}

}  // namespace qlora::tokenizer
