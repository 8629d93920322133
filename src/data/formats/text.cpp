#include "formats.h"
#include "row_fields.h"

namespace qlora::data::formats {
namespace {

Record parse(RowFields& row) {
    Record record;
    record.kind = RecordKind::kText;
    record.text = row.string_at("text");
    refuse_empty_answer(record.text, row.quoted("text"));
    return record;
}

}  // namespace

RecordFormat text() {
    return {DataFormat::kText, "text", {"text"}, parse};
}

}  // namespace qlora::data::formats
