#include "row_fields.h"

#include "../white_space.h"
#include "qlora/core/error.h"

namespace qlora::data::formats {
namespace {

// A turn with tool calls is refused: trained without them it would teach something else.
void refuse_tool_calls(const Json& turn, const std::string& where) {
    for (const char* name : {"tool_calls", "function_call"}) {
        const auto found = turn.find(name);
        if (found != turn.end() && !found->is_null() && !found->empty()) {
            throw DataError(where + " has " + shown(name) + ", which is not supported");
        }
    }
}

Message read_turn(const Json& turn, const std::string& where, const TurnFields& fields) {
    if (!turn.is_object()) throw DataError(where + " must be an object, found " + type_of(turn));
    for (const std::string& name : {fields.role, fields.content}) {
        const auto found = turn.find(name);
        if (found == turn.end()) throw DataError(where + " has no " + shown(name));
        if (!found->is_string()) {
            throw DataError(shown(name) + " of " + where + " must be a string, found " + type_of(*found));
        }
    }
    const std::string& role_name = turn.at(fields.role).get_ref<const std::string&>();
    const std::optional<Role> role = fields.role_of(role_name);
    if (!role) {
        throw DataError(where + " has the unknown role " + shown(role_name) + "; known are " +
                        fields.known_roles);
    }
    refuse_tool_calls(turn, where);
    return {*role, turn.at(fields.content).get_ref<const std::string&>()};
}

}  // namespace

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

const std::string& string_field(const Json& row, const std::string& name) {
    const auto found = row.find(name);
    if (found == row.end()) throw DataError("the field " + shown(name) + " is missing");
    if (!found->is_string()) throw DataError(shown(name) + " must be a string, found " + type_of(*found));
    return found->get_ref<const std::string&>();
}

std::string optional_string_field(const Json& row, const std::string& name) {
    const auto found = row.find(name);
    if (found == row.end() || found->is_null()) return {};
    return string_field(row, name);
}

void refuse_empty_answer(std::string_view answer, const std::string& where) {
    if (strip(answer).empty()) throw DataError(where + " is empty: there is nothing to learn from it");
}

std::vector<Message> turns_field(const Json& row, const std::string& name, const TurnFields& fields) {
    const auto found = row.find(name);
    if (found == row.end()) throw DataError("the field " + shown(name) + " is missing");
    if (!found->is_array()) throw DataError(shown(name) + " must be a list, found " + type_of(*found));
    if (found->empty()) throw DataError(shown(name) + " is an empty list");
    std::vector<Message> turns;
    turns.reserve(found->size());
    for (const Json& turn : *found) {
        const std::string where = "turn " + std::to_string(turns.size()) + " of " + shown(name);
        Message message = read_turn(turn, where, fields);
        if (message.role == Role::kSystem && !turns.empty()) {
            throw DataError(where + " is a system message; only the first may be one");
        }
        if (message.role == Role::kAssistant) refuse_empty_answer(message.content, "the answer in " + where);
        turns.push_back(std::move(message));
    }
    return turns;
}

const TurnFields& role_content_fields() {
    static const TurnFields fields{"role", "content", "system, user, assistant", role_from_name};
    return fields;
}

}  // namespace qlora::data::formats
