#include "qlora/data/record_format.h"

#include <algorithm>
#include <cstdio>

#include "formats/formats.h"
#include "formats/row_fields.h"
#include "qlora/core/error.h"

namespace qlora::data {
namespace {

// "alpaca (instruction, output, perhaps input), ..."
std::string describe_formats() {
    std::string out;
    for (const RecordFormat& format : record_formats()) {
        out += (out.empty() ? "" : ", ") + std::string(enum_name(format.format)) + " (" +
               std::string(format.fields) + ")";
    }
    return out;
}

std::string fields_of(const Json& row) {
    constexpr std::size_t kShown = 12;
    std::string out;
    std::size_t count = 0;
    for (const auto& [name, value] : row.items()) {
        if (++count > kShown) return out + ", ...";
        out += (out.empty() ? "" : ", ") + formats::shown(name);
    }
    return out.empty() ? "none" : out;
}

const RecordFormat& format_of(const Json& row, DataFormat wanted) {
    const RecordFormat* found = nullptr;
    for (const RecordFormat& format : record_formats()) {
        if (wanted == format.format) return format;
        if (wanted != DataFormat::kAuto || !format.matches(row)) continue;
        if (found != nullptr) {
            throw DataError("the fields (" + fields_of(row) + ") fit both " +
                            std::string(enum_name(found->format)) + " and " +
                            std::string(enum_name(format.format)) + "; set data.format to one of them");
        }
        found = &format;
    }
    if (found == nullptr) {
        throw DataError("the fields (" + fields_of(row) +
                        ") fit no format; formats and their fields: " + describe_formats());
    }
    return *found;
}

Json parse_row(std::string_view text) {
    try {
        return parse_json(text, "");
    } catch (const ConfigError& error) {
        // The parser's message is ": line L, column C: reason"; the row's own place comes before it.
        std::string reason = error.what();
        if (reason.rfind(": ", 0) == 0) reason.erase(0, 2);
        if (reason.rfind("line 1, ", 0) == 0) reason.erase(0, 8);
        throw DataError("not valid JSON: " + reason);
    }
}

void check_turns(const Record& record, bool answers_needed) {
    const auto is_not_system = [](const Message& message) { return message.role != Role::kSystem; };
    if (std::none_of(record.messages.begin(), record.messages.end(), is_not_system)) {
        throw DataError("the conversation has only a system message");
    }
    const auto is_answer = [](const Message& message) { return message.role == Role::kAssistant; };
    if (answers_needed && std::none_of(record.messages.begin(), record.messages.end(), is_answer)) {
        throw DataError("the conversation has no assistant turn, so there is nothing to learn from it");
    }
}

}  // namespace

const std::vector<RecordFormat>& record_formats() {
    static const std::vector<RecordFormat> table = {formats::alpaca(), formats::prompt_completion(),
                                                    formats::messages(), formats::sharegpt(),
                                                    formats::text()};
    return table;
}

Record parse_record(std::string_view text, DataFormat format, bool answers_needed) {
    const Json row = parse_row(text);
    if (!row.is_object()) throw DataError("a row must be a JSON object, found " + formats::type_of(row));
    Record record = format_of(row, format).parse(row);
    if (record.kind == RecordKind::kConversation) check_turns(record, answers_needed);
    record.task = formats::optional_string_field(row, "task");
    return record;
}

}  // namespace qlora::data
