#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/data/data_config.h"
#include "qlora/data/message.h"

namespace qlora::data {

/// What a row holds, whichever format it was written in.
enum class RecordKind {
    kText,          ///< running text, no prompt
    kPair,          ///< a prompt string and its completion string
    kInstruction,   ///< an instruction, perhaps with an input, and its answer
    kConversation,  ///< turns with roles
};

/// A data row in the one neutral form that every format becomes.
struct Record {
    RecordKind kind = RecordKind::kText;
    std::string text;               ///< kText only
    std::vector<Message> messages;  ///< every other kind; kPair and kInstruction: perhaps a system turn and
                                    ///< earlier turns, then one user and one assistant turn
    std::string input;              ///< kInstruction: the optional input of the last user turn
    std::size_t context = 0;  ///< so many first messages are never trained on (the prompt of a message list)
    Json tools;               ///< null, or a list of {"type": "function", "function": {...}}; not of kText
    Json documents;           ///< null, or a list of objects; not of kText
    Json template_arguments;  ///< null, or an object of variables for the chat template; not of kText
    std::string task;         ///< the row's `task` field, empty without one
    std::vector<std::string> passed_over;  ///< the row's fields that say something and are not used
};

/// The turns as a chat template takes them: an instruction's input follows it after an empty line.
std::vector<Message> chat_turns(const Record& record);

namespace formats {
class RowFields;
}

/// A way of writing one record as a JSON object. To add one: a file in src/data/formats/ and a row in the
/// table.
struct RecordFormat {
    DataFormat format;
    std::string_view fields;                 ///< its fields, for messages
    std::vector<std::string_view> deciding;  ///< the fields that it needs and that tell it from the others
    /// Throws DataError with the reason (without a place).
    Record (*parse)(formats::RowFields& row);
};

const std::vector<RecordFormat>& record_formats();

/// Parses the text of one row strictly and reads it in `format` (auto: the one whose fields the row has, by
/// the names of `columns` or by other names that leave no doubt). `answers_needed`: a conversation without an
/// assistant turn is a fault. Throws DataError with the reason and without the place; `line` of a JSON fault
/// is counted from the start of `text`.
Record parse_record(std::string_view text, DataFormat format, bool answers_needed,
                    const ColumnNames& columns = {});

}  // namespace qlora::data
