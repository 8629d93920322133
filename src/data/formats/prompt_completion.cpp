#include "formats.h"
#include "qlora/core/error.h"
#include "row_fields.h"
#include "turns.h"

namespace qlora::data::formats {
namespace {

Record parse_strings(RowFields& row) {
    Record record;
    record.kind = RecordKind::kPair;
    record.messages.emplace_back(Role::kUser, row.string_at("prompt"));
    record.messages.emplace_back(Role::kAssistant, row.string_at("completion"));
    add_system_field(row, record.messages);
    refuse_empty_answer(record.messages.back().content(), "the answer (" + row.quoted("completion") + ")");
    return record;
}

// The prompt's turns are context only, its assistant turns too; the completion goes on from there.
Record parse_lists(RowFields& row) {
    Record record;
    record.kind = RecordKind::kConversation;
    record.messages = turns_at(row, "prompt", kRoleContent);
    add_system_field(row, record.messages);
    record.context = record.messages.size();
    for (Message& message : turns_at(row, "completion", kRoleContent)) {
        if (gives_instructions(message.role())) {
            throw DataError(row.quoted("completion") + " must not hold a " +
                            std::string(name_of(message.role())) + " message");
        }
        record.messages.push_back(std::move(message));
    }
    if (record.messages[record.context].role() != Role::kAssistant)
        throw DataError(row.quoted("completion") + " must begin with an assistant turn");
    return record;
}

Record parse(RowFields& row) {
    const Json& prompt = row.at("prompt");
    const Json& completion = row.at("completion");
    if (prompt.is_array() && completion.is_array()) return parse_lists(row);
    if (prompt.is_array() || completion.is_array()) {
        throw DataError(row.quoted("prompt") + " and " + row.quoted("completion") +
                        " must both be strings or both be lists of messages");
    }
    return parse_strings(row);
}

}  // namespace

RecordFormat prompt_completion() {
    return {DataFormat::kPromptCompletion, "prompt, completion", {"prompt", "completion"}, parse};
}

}  // namespace qlora::data::formats
