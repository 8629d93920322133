#include "formats.h"
#include "row_fields.h"

namespace qlora::data::formats {
namespace {

bool matches(const Json& row) {
    return row.contains("messages");
}

Record parse(const Json& row) {
    Record record;
    record.kind = RecordKind::kConversation;
    record.messages = turns_field(row, "messages", role_content_fields());
    return record;
}

}  // namespace

RecordFormat messages() {
    return {DataFormat::kMessages, "messages", matches, parse};
}

}  // namespace qlora::data::formats
