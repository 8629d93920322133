#include "formats.h"
#include "row_fields.h"
#include "turns.h"

namespace qlora::data::formats {
namespace {

Record parse(RowFields& row) {
    Record record;
    record.kind = RecordKind::kInstruction;
    add_history_field(row, record.messages);
    record.messages.emplace_back(Role::kUser, row.string_at("instruction"));
    record.messages.emplace_back(Role::kAssistant, row.string_at("output"));
    add_system_field(row, record.messages);
    record.input = row.optional_string("input");
    refuse_empty_answer(record.messages.back().content(), "the answer (" + row.quoted("output") + ")");
    return record;
}

}  // namespace

RecordFormat alpaca() {
    return {DataFormat::kAlpaca, "instruction, output, perhaps input", {"instruction", "output"}, parse};
}

}  // namespace qlora::data::formats
