#include "qlora/data_report/row.h"

#include <algorithm>

namespace qlora::data_report {
namespace {

std::string text_of(const data::Message& message) {
    std::string out = message.reasoning();
    const auto add = [&](const std::string& text) {
        if (!out.empty() && !text.empty()) out += '\n';
        out += text;
    };
    add(message.content());
    if (message.calls_tools()) add(message.object().at("tool_calls").dump());
    return out;
}

/// Gives the answers their tokens; a template may mark an answer in pieces.
void set_spans(const std::vector<data::AnswerSpan>& spans, Row& row) {
    for (const data::AnswerSpan& span : spans) {
        Turn& turn = row.turns[row.turn_of(span.message)];
        turn.trained = turn.trained || span.supervised;
        turn.tokens += static_cast<std::int64_t>(span.end - span.begin);
    }
}

std::vector<std::pair<std::int64_t, std::int64_t>> runs_of(const std::vector<std::uint8_t>& marks) {
    std::vector<std::pair<std::int64_t, std::int64_t>> out;
    for (std::size_t i = 0; i < marks.size(); ++i) {
        if (marks[i] == 0) continue;
        const auto place = static_cast<std::int64_t>(i);
        if (out.empty() || out.back().second != place) out.emplace_back(place, place);
        out.back().second = place + 1;
    }
    return out;
}

}  // namespace

std::int64_t Row::trained_within(std::int64_t length) const {
    std::int64_t count = 0;
    for (const auto& [begin, end] : trained)
        count += std::max<std::int64_t>(0, std::min(end, length) - begin);
    return count;
}

std::string Row::prompt_of(std::size_t turn) const {
    std::string out;
    for (std::size_t i = 0; i < turn; ++i) {
        if (i > 0) out += '\n';
        out += turns[i].text;
    }
    return out;
}

std::size_t Row::turn_of(std::size_t message) const {
    const auto is_it = [&](const Turn& turn) { return turn.message == message; };
    return static_cast<std::size_t>(std::find_if(turns.begin(), turns.end(), is_it) - turns.begin());
}

Row make_row(const data::ReadRow& read, Part part) {
    Row out;
    out.part = part;
    out.number = read.number;
    out.place = read.place;
    out.tokens = static_cast<std::int64_t>(read.encoded.ids.size());
    out.trained = runs_of(read.encoded.supervised);
    if (read.record.kind == data::RecordKind::kText) {
        out.turns.push_back({.text = read.record.text});
        return out;
    }
    const std::vector<data::Message> messages = data::chat_turns(read.record);
    for (std::size_t i = 0; i < messages.size(); ++i) {
        if (data::gives_instructions(messages[i].role())) {
            out.setting += messages[i].content() + '\n';
        } else {
            out.turns.push_back({.role = messages[i].role(), .text = text_of(messages[i]), .message = i});
        }
    }
    for (const Json* field : {&read.record.tools, &read.record.documents, &read.record.template_arguments})
        if (!field->is_null()) out.setting += field->dump() + '\n';
    set_spans(read.encoded.answers, out);
    return out;
}

}  // namespace qlora::data_report
