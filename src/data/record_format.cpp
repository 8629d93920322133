#include "qlora/data/record_format.h"

#include <algorithm>
#include <cstdio>

#include "formats/formats.h"
#include "formats/row_fields.h"
#include "formats/tool_calls.h"
#include "own_variables.h"
#include "qlora/core/error.h"

namespace qlora::data {
namespace {

using formats::RowFields;

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

using Formats = std::vector<const RecordFormat*>;

template <class Holds>
Formats formats_where(const Holds& holds) {
    Formats out;
    for (const RecordFormat& format : record_formats()) {
        if (holds(format)) out.push_back(&format);
    }
    return out;
}

template <class Holds>
bool all_deciding(const RecordFormat& format, const Holds& holds) {
    return std::all_of(format.deciding.begin(), format.deciding.end(), holds);
}

/// The format that `data.columns` gives a deciding field of, if it is one.
Formats formats_of_columns(const ColumnNames& columns) {
    Formats out = formats_where([&](const RecordFormat& format) {
        return std::any_of(format.deciding.begin(), format.deciding.end(),
                           [&](std::string_view field) { return columns.column_of(field) != nullptr; });
    });
    return out.size() == 1 ? out : Formats{};
}

/// The formats whose fields the row holds: by their own names; else by other names; else those whose fields
/// are there, though they hold nothing.
Formats formats_that_fit(const RowFields& row) {
    const auto holds = [&](std::string_view field) { return !row.names_of(field).empty(); };
    const auto holds_own = [&](std::string_view field) { return row.holds_own(field); };
    const auto is_there = [&](std::string_view field) { return row.is_there(field); };
    Formats out = formats_where([&](const RecordFormat& format) { return all_deciding(format, holds_own); });
    if (out.empty())
        out = formats_where([&](const RecordFormat& format) { return all_deciding(format, holds); });
    if (out.empty())
        out = formats_where([&](const RecordFormat& format) { return all_deciding(format, is_there); });
    return out;
}

const RecordFormat& format_of(const RowFields& row, DataFormat wanted, const ColumnNames& columns) {
    Formats found = formats_where([&](const RecordFormat& format) { return format.format == wanted; });
    if (found.empty()) found = formats_of_columns(columns);
    if (found.empty()) found = formats_that_fit(row);
    if (found.size() > 1) {
        throw DataError("the fields (" + fields_of(row.row()) + ") fit both " +
                        std::string(enum_name(found[0]->format)) + " and " +
                        std::string(enum_name(found[1]->format)) + "; set data.format to one of them");
    }
    if (found.empty()) {
        throw DataError("the fields (" + fields_of(row.row()) +
                        ") fit no format; formats and their fields: " + describe_formats() +
                        "; data.columns names columns that are called otherwise");
    }
    return *found.front();
}

/// A row that has a deciding field by another name only, and by two, leaves it open which one is meant.
void refuse_open_names(const RowFields& row, const RecordFormat& format) {
    if (all_deciding(format, [&](std::string_view field) { return row.holds_own(field); })) return;
    for (const std::string_view field : format.deciding) {
        const std::vector<std::string> names = row.names_of(field);
        if (names.size() > 1) RowFields::refuse_two_names(names[0], names[1], field);
    }
}

/// Trained without these a row would teach something else.
void refuse_lost_meaning(const Json& row, DataFormat format) {
    for (const char* name : {"images", "videos", "audios"}) {
        if (row.contains(name) && row[name].is_array() && !row[name].empty())
            throw DataError(formats::shown(name) + " holds what is no text, and only text can be trained on");
    }
    const auto is_unwanted = [&](const char* name) { return row.contains(name) && row[name] == false; };
    const bool is_pair = format == DataFormat::kPromptCompletion;
    for (const char* name : {"kto_tag", "label"}) {
        if (!is_unwanted(name) || (name == std::string_view("label") && !is_pair)) continue;
        throw DataError(formats::shown(name) +
                        " false marks an answer that is not wanted, but every answer is trained; leave such "
                        "rows out");
    }
}

/// What a conversation may have besides its turns.
void read_template_fields(RowFields& row, Record& record) {
    const Json tools = row.structured_or_null("tools", Json::value_t::array);
    if (!tools.is_null()) record.tools = formats::normal_tools(tools, row.quoted("tools"));
    record.documents = row.structured_or_null("documents", Json::value_t::array);
    for (const Json& document : record.documents) {
        if (!document.is_object()) {
            throw DataError(row.quoted("documents") + " must be a list of objects, found " +
                            formats::type_of(document) + " in it");
        }
    }
    record.template_arguments = row.structured_or_null("chat_template_kwargs", Json::value_t::object);
    for (const std::string& name : own_variables_in(record.template_arguments))
        throw DataError(row.quoted("chat_template_kwargs") + " holds " + formats::shown(name) +
                        ", which is the row's own; leave it out");
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
    const auto is_instruction = [](const Message& message) { return gives_instructions(message.role()); };
    if (std::all_of(record.messages.begin(), record.messages.end(), is_instruction)) {
        throw DataError("the conversation has only a system message");
    }
    const auto is_answer = [](const Message& message) { return message.role() == Role::kAssistant; };
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

std::vector<Message> chat_turns(const Record& record) {
    std::vector<Message> turns = record.messages;
    if (record.input.empty()) return turns;
    const auto is_user = [](const Message& message) { return message.role() == Role::kUser; };
    const auto last = std::find_if(turns.rbegin(), turns.rend(), is_user);
    if (last != turns.rend()) *last = Message(Role::kUser, last->content() + "\n\n" + record.input);
    return turns;
}

Record parse_record(std::string_view text, DataFormat format, bool answers_needed,
                    const ColumnNames& columns) {
    const Json row = parse_row(text);
    if (!row.is_object()) throw DataError("a row must be a JSON object, found " + formats::type_of(row));
    RowFields fields(row, columns);
    const RecordFormat& chosen = format_of(fields, format, columns);
    refuse_open_names(fields, chosen);
    Record record = chosen.parse(fields);
    if (record.kind == RecordKind::kConversation) check_turns(record, answers_needed);
    if (record.kind != RecordKind::kText) {
        refuse_lost_meaning(row, chosen.format);
        read_template_fields(fields, record);
    }
    record.task = fields.optional_string("task");
    record.passed_over = fields.unread();
    return record;
}

}  // namespace qlora::data
