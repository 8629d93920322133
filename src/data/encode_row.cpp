#include <algorithm>
#include <functional>
#include <utility>

#include "qlora/core/error.h"
#include "qlora/data/prompt_template.h"

namespace qlora::data {
namespace {

using tokenizer::ByteRange;
using tokenizer::TokenId;

/// Edges of answers, ascending and once each; none where answers are marked by overlap.
std::vector<std::size_t> edges_of(const RenderedRow& row) {
    std::vector<std::size_t> out;
    if (row.is_marked) return out;
    for (const AnswerText& answer : row.answers) {
        for (const std::size_t edge : {answer.begin, answer.end}) {
            const bool is_inside = edge > 0 && edge < row.text.size();
            if (is_inside && (out.empty() || out.back() < edge)) out.push_back(edge);
        }
    }
    return out;
}

bool is_of(const ByteRange& token, const AnswerText& answer, bool by_overlap) {
    if (token.begin >= answer.begin && token.begin < answer.end) return true;
    return by_overlap && token.begin < answer.end && answer.begin < token.end;
}

/// `from`: no token before it is the answer's.
AnswerSpan span_of(const AnswerText& answer, const RenderedRow& row, const std::vector<ByteRange>& tokens,
                   std::size_t from) {
    const auto is_own = [&](const ByteRange& token) { return is_of(token, answer, row.is_marked); };
    const auto begin = std::find_if(tokens.begin() + static_cast<std::ptrdiff_t>(from), tokens.end(), is_own);
    const auto end = std::find_if_not(begin, tokens.end(), is_own);
    return {.begin = static_cast<std::size_t>(begin - tokens.begin()),
            .end = static_cast<std::size_t>(end - tokens.begin()),
            .message = answer.message,
            .prompted = answer.after > 0,
            .supervised = answer.supervised,
            .ends = answer.ends,
            .plain = row.reads_control};
}

/// Where the opening of an answer begins, whose first token is `begin`.
std::size_t opening_of(std::size_t begin, std::size_t said, const std::string& text,
                       const tokenizer::EncodedText& tokens, const std::function<bool(TokenId)>& ends_turn) {
    std::size_t opening = begin;
    while (opening > 0 && tokens.ranges[opening - 1].begin >= said && !ends_turn(tokens.ids[opening - 1]))
        --opening;
    const auto is_blank = [&](const ByteRange& token) {
        return std::all_of(text.begin() + static_cast<std::ptrdiff_t>(token.begin),
                           text.begin() + static_cast<std::ptrdiff_t>(token.end), [](char byte) {
                               return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
                           });
    };
    while (opening < begin && is_blank(tokens.ranges[opening])) ++opening;
    return opening;
}

/// Whether the byte belongs to what the row says.
bool is_said(std::size_t byte, const std::vector<ByteRange>& plain) {
    const auto next = std::upper_bound(plain.begin(), plain.end(), byte,
                                       [](std::size_t at, const ByteRange& range) { return at < range.end; });
    return next != plain.end() && next->begin <= byte;
}

}  // namespace

std::size_t EncodedRow::last_answer_begin() const {
    const auto is_last = [&](const AnswerSpan& span) { return span.message == answers.back().message; };
    return std::find_if(answers.begin(), answers.end(), is_last)->begin;
}

EncodedRow PromptTemplate::encode(const RenderedRow& row) const {
    tokenizer::EncodedText text = tokenizer_.encode_text(
        row.text, {.plain_ranges = row.plain_ranges, .cuts = edges_of(row), .control_tokens = control_ids_});
    EncodedRow out;
    out.cut_edges = text.crossed_cuts.size();
    const std::size_t start = row.adds_start ? start_ids_.size() : 0;
    if (row.adds_start) out.ids = start_ids_;
    out.ids.insert(out.ids.end(), text.ids.begin(), text.ids.end());
    const auto ends_turn = [&](TokenId id) {
        return tokenizer_.is_special(id) && std::find(end_ids_.begin(), end_ids_.end(), id) != end_ids_.end();
    };
    std::size_t from = 0;  // where the answer before begins: answers ascend
    for (const AnswerText& answer : row.answers) {
        AnswerSpan span = span_of(answer, row, text.ranges, from);
        from = span.begin;
        span.opening = opening_of(span.begin, answer.after, row.text, text, ends_turn) + start;
        for (std::size_t i = span.begin; i + 1 < span.end; ++i) {
            const bool is_control =
                std::find(control_ids_.begin(), control_ids_.end(), text.ids[i]) != control_ids_.end();
            // What the template writes inside of an answer (between a text and a call, say) may be one.
            if (is_control && !is_said(text.ranges[i].begin, row.plain_ranges)) span.plain = true;
        }
        span.begin += start;
        span.end += start;
        out.answers.push_back(span);
    }
    if (row.adds_end) {
        if (!special_.eos) {
            throw ConfigError("data.template: " + name_ +
                              " ends a row with EOS, but the model's tokenizer names no eos_token");
        }
        if (out.ids.empty() || out.ids.back() != *special_.eos) out.ids.push_back(*special_.eos);
        if (!out.answers.empty()) out.answers.back().end = out.ids.size();
    }
    out.supervised.assign(out.ids.size(), row.trains_all ? 1 : 0);
    for (const AnswerSpan& span : out.answers) {
        std::fill(out.supervised.begin() + static_cast<std::ptrdiff_t>(span.begin),
                  out.supervised.begin() + static_cast<std::ptrdiff_t>(span.end), span.supervised ? 1 : 0);
    }
    if (!out.supervised.empty()) out.supervised.front() = 0;  // nothing comes before it that could predict it
    return out;
}

}  // namespace qlora::data
