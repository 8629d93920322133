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
    std::string text;  ///< kText only
    std::vector<Message>
        messages;             ///< every other kind; kPair and kInstruction: one user and one assistant turn
    std::string input;        ///< kInstruction: the optional input
    std::size_t context = 0;  ///< so many first messages are never trained on (the prompt of a message list)
    std::string task;         ///< the row's `task` field, empty without one
};

/// A way of writing one record as a JSON object. To add one: a file in src/data/formats/ and a row in the
/// table.
struct RecordFormat {
    DataFormat format;
    std::string_view fields;  ///< the fields it needs, for messages
    /// Do the fields that tell this format from the others exist?
    bool (*matches)(const Json& row);
    /// Throws DataError with the reason (without a place).
    Record (*parse)(const Json& row);
};

const std::vector<RecordFormat>& record_formats();

/// Parses the text of one row strictly and reads it in `format` (auto: the one whose fields the row has).
/// `answers_needed`: a conversation without an assistant turn is a fault. Throws DataError with the reason
/// and without the place; `line` of a JSON fault is counted from the start of `text`.
Record parse_record(std::string_view text, DataFormat format, bool answers_needed);

}  // namespace qlora::data
