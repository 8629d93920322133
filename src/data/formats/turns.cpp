#include "turns.h"

#include <cstddef>

#include "qlora/core/error.h"

namespace qlora::data::formats {
namespace {

void check_place(Role role, const std::vector<Message>& before, const std::string& where) {
    const bool comes_late =
        !before.empty() && (role == Role::kSystem || !gives_instructions(before.back().role()));
    if (gives_instructions(role) && comes_late)
        throw DataError(where + " is a " + std::string(name_of(role)) +
                        " message; only the first may be one");
    if (role == Role::kTool && before.empty())
        throw DataError(where + " is a tool's result, but nothing was asked before it");
}

}  // namespace

std::vector<Message> turns_at(RowFields& row, std::string_view field, const TurnNames& names) {
    const Json& given = row.at(field);
    const std::string name = row.quoted(field);
    // A string that is no JSON is a text in the wrong place.
    if (!given.is_array() && !given.is_string())
        throw DataError(name + " must be a list, found " + type_of(given));
    const Json parsed = given.is_array() ? Json() : parsed_value(given, Json::value_t::array, name);
    const Json& list = given.is_array() ? given : parsed;
    if (list.empty()) throw DataError(name + " is an empty list");
    std::vector<Message> turns;
    turns.reserve(list.size());
    for (const Json& turn : list) {
        const std::string where = "turn " + std::to_string(turns.size()) + " of " + name;
        Message message = read_turn(turn, where, names);
        check_place(message.role(), turns, where);
        turns.push_back(std::move(message));
    }
    return turns;
}

bool add_system_field(RowFields& row, std::vector<Message>& turns) {
    const std::string words = row.optional_string("system");
    if (words.empty()) return false;
    if (!turns.empty() && turns.front().role() == Role::kSystem) {
        if (turns.front().content() == words) return false;
        throw DataError("the field " + row.quoted("system") +
                        " and the system turn that the conversation begins with differ");
    }
    turns.insert(turns.begin(), Message(Role::kSystem, words));
    return true;
}

void add_history_field(RowFields& row, std::vector<Message>& turns) {
    const Json history = row.structured_or_null("history", Json::value_t::array);
    std::size_t round = 0;
    for (const Json& pair : history.is_null() ? Json::array() : history) {
        const std::string where = "round " + std::to_string(round++) + " of " + row.quoted("history");
        const bool fits = pair.is_array() && pair.size() == 2 && pair[0].is_string() && pair[1].is_string();
        if (!fits) throw DataError(where + " must be a pair of strings, [question, answer]");
        turns.emplace_back(Role::kUser, pair[0].get_ref<const std::string&>());
        turns.emplace_back(Role::kAssistant, pair[1].get_ref<const std::string&>());
        refuse_empty_answer(turns.back().content(), "the answer in " + where);
    }
}

}  // namespace qlora::data::formats
