#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/data/message.h"

namespace qlora::data::formats {

/// The string at `name`; a missing field or another type is a DataError that names both.
const std::string& string_field(const Json& row, const std::string& name);
/// The same, but absent or null is an empty string.
std::string optional_string_field(const Json& row, const std::string& name);

/// An answer that says nothing but white space teaches nothing: DataError that names `where`.
void refuse_empty_answer(std::string_view answer, const std::string& where);

/// How a format spells a list of turns.
struct TurnFields {
    std::string role;
    std::string content;
    /// Spellings of the roles that this format knows, for messages.
    std::string known_roles;
    std::optional<Role> (*role_of)(std::string_view name);
};

/// The turns at `name`: a non-empty list of objects, `system` only first, no empty answer.
std::vector<Message> turns_field(const Json& row, const std::string& name, const TurnFields& fields);

/// role and content, as in the chat APIs.
const TurnFields& role_content_fields();

/// A string of the row for messages: quoted, escaped and cut to a readable length.
std::string shown(const std::string& text);
/// "an object", "a string", ... for messages.
std::string type_of(const Json& value);

}  // namespace qlora::data::formats
