#include "formats.h"
#include "row_fields.h"

namespace qlora::data::formats {
namespace {

bool matches(const Json& row) {
    return row.contains("instruction") && row.contains("output");
}

Record parse(const Json& row) {
    Record record;
    record.kind = RecordKind::kInstruction;
    record.messages.push_back({Role::kUser, string_field(row, "instruction")});
    record.messages.push_back({Role::kAssistant, string_field(row, "output")});
    record.input = optional_string_field(row, "input");
    refuse_empty_answer(record.messages.back().content, "the answer (\"output\")");
    return record;
}

}  // namespace

RecordFormat alpaca() {
    return {DataFormat::kAlpaca, "instruction, output, perhaps input", matches, parse};
}

}  // namespace qlora::data::formats
