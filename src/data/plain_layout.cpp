#include "plain_layout.h"

#include <string>

#include "jinja_text.h"
#include "qlora/core/error.h"

namespace qlora::data {
namespace {

// The format of Stanford Alpaca (train.py, PROMPT_DICT): the words are the format.
constexpr const char* kAlpacaWithInput =
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n";
constexpr const char* kAlpacaWithoutInput =
    "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n";
constexpr const char* kAlpacaInput = "\n\n### Input:\n";
constexpr const char* kAlpacaResponse = "\n\n### Response:";

Segment outside(std::string text, SegmentKind kind) {
    return {std::move(text), kind, false, -1};
}
Segment answer(std::string text, SegmentKind kind) {
    return {std::move(text), kind, true, 0};
}

}  // namespace

std::vector<Segment> render_alpaca(const Record& record, bool prompt_only) {
    const std::vector<Message>& turns = record.messages;
    const bool fits = turns.size() == (prompt_only ? 1U : 2U) && turns.front().role() == Role::kUser &&
                      (prompt_only || turns.back().role() == Role::kAssistant);
    if (!fits) {
        throw DataError(
            "the alpaca template has one instruction and one answer, no system message and no further "
            "turns; set data.template to chatml or llama3");
    }
    std::vector<Segment> segments = {outside("", SegmentKind::kStart)};
    segments.push_back(
        outside(record.input.empty() ? kAlpacaWithoutInput : kAlpacaWithInput, SegmentKind::kTemplate));
    segments.push_back(outside(turns.front().content(), SegmentKind::kContent));
    if (!record.input.empty()) {
        segments.push_back(outside(kAlpacaInput, SegmentKind::kTemplate));
        segments.push_back(outside(record.input, SegmentKind::kContent));
    }
    segments.push_back(outside(kAlpacaResponse, SegmentKind::kTemplate));
    if (prompt_only) return segments;
    segments.push_back(answer(turns.back().content(), SegmentKind::kContent));
    segments.push_back(answer("", SegmentKind::kEnd));
    return segments;
}

std::string alpaca_chat_template(const std::string& start) {
    const std::string question = jinja_quoted(start + kAlpacaWithoutInput) + " + messages[0]['content'] + " +
                                 jinja_quoted(kAlpacaResponse);
    return "{%- if messages | length > 2 or messages[0]['role'] != 'user' or "
           "(messages | length == 2 and messages[1]['role'] != 'assistant') %}\n"
           "{{- raise_exception('the alpaca template has one instruction and one answer, no system message "
           "and no further turns') }}\n"
           "{%- endif %}\n"
           "{{- " +
           question +
           " }}\n"
           "{%- if messages | length == 2 %}\n"
           "{{- messages[1]['content'] + eos_token }}\n"
           "{%- endif %}";
}

std::vector<Segment> render_plain(const Record& record, bool prompt_only) {
    if (record.kind == RecordKind::kConversation) {
        throw DataError("a conversation needs a chat template; set data.template to chatml or llama3");
    }
    std::vector<Segment> segments = {outside("", SegmentKind::kStart)};
    if (record.kind == RecordKind::kText) {
        // A text is all answer: there is no prompt that could be left out of the loss.
        segments.push_back(answer(record.text, SegmentKind::kPlain));
        if (!prompt_only) segments.push_back(answer("", SegmentKind::kEnd));
        return segments;
    }
    const std::vector<Message> turns = chat_turns(record);
    if (turns.size() != (prompt_only ? 1U : 2U)) {
        throw DataError(
            "a system message or earlier turns need a chat template; set data.template to chatml or "
            "llama3");
    }
    segments.push_back(outside(turns.front().content(), SegmentKind::kPlain));
    if (prompt_only) return segments;
    segments.push_back(answer(turns.back().content(), SegmentKind::kPlain));
    segments.push_back(answer("", SegmentKind::kEnd));
    return segments;
}

}  // namespace qlora::data
