#include "formats.h"
#include "qlora/core/error.h"
#include "row_fields.h"

namespace qlora::data::formats {
namespace {

bool matches(const Json& row) {
    return row.contains("prompt") && row.contains("completion");
}

Record parse_strings(const Json& row) {
    Record record;
    record.kind = RecordKind::kPair;
    record.messages.push_back({Role::kUser, string_field(row, "prompt")});
    record.messages.push_back({Role::kAssistant, string_field(row, "completion")});
    refuse_empty_answer(record.messages.back().content, "the answer (\"completion\")");
    return record;
}

// The prompt's turns are context only, its assistant turns too; the completion goes on from there.
Record parse_lists(const Json& row) {
    Record record;
    record.kind = RecordKind::kConversation;
    record.messages = turns_field(row, "prompt", role_content_fields());
    record.context = record.messages.size();
    for (Message& message : turns_field(row, "completion", role_content_fields())) {
        if (message.role == Role::kSystem) throw DataError("\"completion\" must not hold a system message");
        record.messages.push_back(std::move(message));
    }
    if (record.messages[record.context].role != Role::kAssistant) {
        throw DataError("\"completion\" must begin with an assistant turn");
    }
    return record;
}

Record parse(const Json& row) {
    const auto prompt = row.find("prompt");
    const auto completion = row.find("completion");
    const bool lists =
        prompt != row.end() && completion != row.end() && prompt->is_array() && completion->is_array();
    const bool mixed = prompt != row.end() && completion != row.end() && !lists &&
                       (prompt->is_array() || completion->is_array());
    if (mixed)
        throw DataError("\"prompt\" and \"completion\" must both be strings or both be lists of messages");
    return lists ? parse_lists(row) : parse_strings(row);
}

}  // namespace

RecordFormat prompt_completion() {
    return {DataFormat::kPromptCompletion, "prompt, completion", matches, parse};
}

}  // namespace qlora::data::formats
