#include "formats.h"
#include "row_fields.h"

namespace qlora::data::formats {
namespace {

bool matches(const Json& row) {
    return row.contains("text");
}

Record parse(const Json& row) {
    Record record;
    record.kind = RecordKind::kText;
    record.text = string_field(row, "text");
    refuse_empty_answer(record.text, "\"text\"");
    return record;
}

}  // namespace

RecordFormat text() {
    return {DataFormat::kText, "text", matches, parse};
}

}  // namespace qlora::data::formats
