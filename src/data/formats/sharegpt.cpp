#include "formats.h"
#include "row_fields.h"

namespace qlora::data::formats {
namespace {

std::optional<Role> role_of(std::string_view name) {
    if (name == "human" || name == "user") return Role::kUser;
    if (name == "gpt" || name == "assistant") return Role::kAssistant;
    if (name == "system") return Role::kSystem;
    return std::nullopt;
}

bool matches(const Json& row) {
    return row.contains("conversations");
}

Record parse(const Json& row) {
    static const TurnFields fields{"from", "value", "system, human (or user), gpt (or assistant)", role_of};
    Record record;
    record.kind = RecordKind::kConversation;
    record.messages = turns_field(row, "conversations", fields);
    return record;
}

}  // namespace

RecordFormat sharegpt() {
    return {DataFormat::kSharegpt, "conversations", matches, parse};
}

}  // namespace qlora::data::formats
