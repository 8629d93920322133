#include "row_fields.h"

#include <algorithm>
#include <utility>

#include "../white_space.h"
#include "qlora/core/error.h"

namespace qlora::data::formats {

const std::vector<std::string_view>& other_names(std::string_view field) {
    using Names = std::vector<std::string_view>;
    static const std::vector<std::pair<std::string_view, Names>> table = {
        {"instruction", {"question"}},      {"input", {"context"}},
        {"output", {"response", "answer"}}, {"completion", {"response", "answer", "output"}},
        {"messages", {"conversation"}},     {"system", {"system_prompt"}},
        {"tools", {"functions"}},
    };
    static const Names none;
    for (const auto& [name, others] : table) {
        if (name == field) return others;
    }
    return none;
}

bool says_nothing(const Json& value) {
    if (value.is_string()) return value.get_ref<const std::string&>().empty();
    return value.is_null() || (value.is_structured() && value.empty());
}

std::string shown(const std::string& text) {
    constexpr std::size_t kShown = 40;
    if (text.size() <= kShown) return Json(text).dump();
    std::size_t size = kShown;
    while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
    return Json(text.substr(0, size) + "...").dump();
}

std::string type_of(const Json& value) {
    switch (value.type()) {
        case Json::value_t::null:
            return "null";
        case Json::value_t::object:
            return "an object";
        case Json::value_t::array:
            return "a list";
        case Json::value_t::string:
            return "a string";
        case Json::value_t::boolean:
            return "true or false";
        default:
            return "a number";
    }
}

void refuse_empty_answer(std::string_view answer, const std::string& where) {
    if (strip(answer).empty()) throw DataError(where + " is empty: there is nothing to learn from it");
}

Json parsed_value(const Json& value, Json::value_t type, const std::string& where) {
    if (value.type() == type) return value;
    const std::string kind = type == Json::value_t::array ? "a list" : "an object";
    const std::string wanted = where + " must be " + kind + " or the JSON text of one";
    if (!value.is_string()) throw DataError(wanted + ", found " + type_of(value));
    const std::string& text = value.get_ref<const std::string&>();
    Json out;
    try {
        out = parse_json(text, "");
    } catch (const ConfigError&) {
        const std::size_t inside = text.find_first_not_of("[{ \n");
        const bool is_pythons = inside != std::string::npos && inside > 0 && text[inside] == '\'';
        throw DataError(wanted + ", found " + shown(text) +
                        (is_pythons ? ", which is how Python prints one; write it with json.dumps()" : ""));
    }
    if (out.type() != type) throw DataError(wanted + ", found the text of " + type_of(out));
    return out;
}

const Json* RowFields::value_of(const std::string& name) const {
    const auto found = row_.find(name);
    return found == row_.end() ? nullptr : &*found;
}

std::string RowFields::own_name(std::string_view field) const {
    const std::string* column = columns_.column_of(field);
    return column != nullptr ? *column : std::string(field);
}

bool RowFields::is_taken(const std::string& name, std::string_view field) const {
    return std::any_of(columns_.columns.begin(), columns_.columns.end(),
                       [&](const auto& entry) { return entry.second == name && entry.first != field; });
}

bool RowFields::is_there(std::string_view field) const {
    return !all_names_of(field).empty();
}

bool RowFields::holds_own(std::string_view field) const {
    const std::string own = own_name(field);
    const Json* value = value_of(own);
    return value != nullptr && !value->is_null() && !is_taken(own, field);
}

std::vector<std::string> RowFields::all_names_of(std::string_view field) const {
    std::vector<std::string> names;
    const auto add = [&](std::string name) {
        if (value_of(name) != nullptr && !is_taken(name, field)) names.push_back(std::move(name));
    };
    add(own_name(field));
    if (columns_.column_of(field) != nullptr) return names;
    for (const std::string_view other : other_names(field)) add(std::string(other));
    return names;
}

std::vector<std::string> RowFields::names_of(std::string_view field) const {
    std::vector<std::string> names = all_names_of(field);
    std::erase_if(names, [&](const std::string& name) { return value_of(name)->is_null(); });
    return names;
}

const Json* RowFields::find(std::string_view field) {
    const Json* found = nullptr;
    std::string found_name;
    for (const std::string& name : names_of(field)) {
        const Json* value = value_of(name);
        read_.push_back(name);
        if (found == nullptr || says_nothing(*found)) {
            found = value;
            found_name = name;
        } else if (!says_nothing(*value) && *found != *value) {
            refuse_two_names(found_name, name, field);
        }
    }
    return found;
}

const Json& RowFields::at(std::string_view field) {
    std::vector<std::string> names = names_of(field);
    if (names.empty()) names = all_names_of(field);
    const std::string own = own_name(field);
    if (names.empty()) throw DataError("the field " + shown(own) + " is missing");
    const std::string& name = names.front();
    if (names.size() > 1 && name != own) refuse_two_names(name, names[1], field);
    read_.push_back(name);
    return *value_of(name);
}

const std::string& RowFields::string_at(std::string_view field) {
    const Json& value = at(field);
    if (!value.is_string()) throw DataError(quoted(field) + " must be a string, found " + type_of(value));
    return value.get_ref<const std::string&>();
}

std::string RowFields::optional_string(std::string_view field) {
    const Json* value = find(field);
    if (value == nullptr) return {};
    if (!value->is_string()) throw DataError(quoted(field) + " must be a string, found " + type_of(*value));
    return value->get<std::string>();
}

Json RowFields::structured_or_null(std::string_view field, Json::value_t type) {
    const Json* value = find(field);
    if (value == nullptr || says_nothing(*value)) return nullptr;
    Json out = parsed_value(*value, type, quoted(field));
    return out.empty() ? Json() : out;
}

std::string RowFields::quoted(std::string_view field) const {
    std::vector<std::string> names = names_of(field);
    if (names.empty()) names = all_names_of(field);
    return shown(names.empty() ? own_name(field) : names.front());
}

std::vector<std::string> RowFields::unread() const {
    std::vector<std::string> out;
    for (const auto& [name, value] : row_.items()) {
        const bool is_read = std::find(read_.begin(), read_.end(), name) != read_.end();
        if (!is_read && !says_nothing(value)) out.push_back(name);
    }
    return out;
}

void RowFields::refuse_two_names(const std::string& one, const std::string& other, std::string_view field) {
    throw DataError("both " + shown(one) + " and " + shown(other) + " could be the field " +
                    shown(std::string(field)) + "; name one of them in data.columns");
}

}  // namespace qlora::data::formats
