#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/data/data_config.h"

namespace qlora::data::formats {

/// The fields of one row by the names that the formats know, wherever the row keeps them: in the column that
/// `data.columns` names, under the name itself, or under another usual name for the same.
class RowFields {
  public:
    /// Keeps references to both.
    RowFields(const Json& row, const ColumnNames& columns) : row_(row), columns_(columns) {}

    /// Does the row have the field under any of its names, null or not?
    bool is_there(std::string_view field) const;
    /// Does it hold something in the field's column of `data.columns`, or else under the field's own name?
    bool holds_own(std::string_view field) const;
    /// The names, its own first, under which the row holds something for the field; null is nothing.
    std::vector<std::string> names_of(std::string_view field) const;

    /// The value of a field that may be missing; null where it is not there or JSON's null. DataError where
    /// two of its names say different things.
    const Json* find(std::string_view field);
    /// The value under the field's own name or the only other one; DataError when it is missing.
    const Json& at(std::string_view field);
    /// The string at a field; another type is a DataError that names both.
    const std::string& string_at(std::string_view field);
    /// The same, but absent or null is an empty string.
    std::string optional_string(std::string_view field);
    /// A field that may be missing and is a `type` (a list or an object), or the JSON text of one; null
    /// without one or where it is empty.
    Json structured_or_null(std::string_view field, Json::value_t type);

    /// The field's name as the row spells it, quoted, for messages.
    std::string quoted(std::string_view field) const;
    /// The row's fields that say something and that none of the above has read.
    std::vector<std::string> unread() const;
    const Json& row() const { return row_; }

    /// DataError: it is open which of two names the field is meant by.
    [[noreturn]] static void refuse_two_names(const std::string& one, const std::string& other,
                                              std::string_view field);

  private:
    const Json* value_of(const std::string& name) const;
    std::vector<std::string> all_names_of(std::string_view field) const;
    std::string own_name(std::string_view field) const;
    /// Does `data.columns` give the column to another field?
    bool is_taken(const std::string& name, std::string_view field) const;

    const Json& row_;
    const ColumnNames& columns_;
    std::vector<std::string> read_;
};

/// The other names that a field goes by in well-known data sets; empty for most.
const std::vector<std::string_view>& other_names(std::string_view field);

/// null, "", [] or {}: a field that says nothing.
bool says_nothing(const Json& value);

/// An answer that says nothing but white space teaches nothing: DataError that names `where`.
void refuse_empty_answer(std::string_view answer, const std::string& where);

/// The value itself, or what its JSON text says; DataError when it is neither a `type` nor a text of one.
Json parsed_value(const Json& value, Json::value_t type, const std::string& where);

/// A string of the row for messages: quoted, escaped and cut to a readable length.
std::string shown(const std::string& text);
/// "an object", "a string", ... for messages.
std::string type_of(const Json& value);

}  // namespace qlora::data::formats
