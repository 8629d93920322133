#include "formats.h"
#include "row_fields.h"
#include "turns.h"

namespace qlora::data::formats {
namespace {

Record conversation(RowFields& row, std::string_view field, const TurnNames& names) {
    Record record;
    record.kind = RecordKind::kConversation;
    record.messages = turns_at(row, field, names);
    add_system_field(row, record.messages);
    return record;
}

Record parse_messages(RowFields& row) {
    return conversation(row, "messages", kRoleContent);
}
Record parse_sharegpt(RowFields& row) {
    return conversation(row, "conversations", kFromValue);
}

}  // namespace

RecordFormat messages() {
    return {DataFormat::kMessages, "messages", {"messages"}, parse_messages};
}
RecordFormat sharegpt() {
    return {DataFormat::kSharegpt, "conversations", {"conversations"}, parse_sharegpt};
}

}  // namespace qlora::data::formats
