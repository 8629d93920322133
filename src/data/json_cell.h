#pragma once

#include <string>
#include <string_view>

namespace qlora::data {

/// Appends `text`, valid UTF-8, as a JSON string.
void append_json_string(std::string& out, std::string_view text);

/// Appends the value of a cell of text to a JSON row: a string, of which the formats read the JSON text of a
/// list themselves where a field can only be one (`messages`, `tools`). In one of the message_columns
/// (message_columns.h) it is
/// the list of messages that the cell spells in JSON, if it does.
void append_cell(std::string& out, bool is_message_column, std::string_view text);

}  // namespace qlora::data
