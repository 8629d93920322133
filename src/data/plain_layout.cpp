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

/// Appends to a row that begins as texts do and ends in EOS.
class PlainRow {
  public:
    PlainRow() { row_.adds_start = true; }

    PlainRow& words(const std::string& text) {
        row_.text += text;
        return *this;
    }
    /// What the row says, in which no control token is recognised.
    PlainRow& content(const std::string& text) {
        const std::size_t begin = row_.text.size();
        row_.text += text;
        if (!text.empty()) row_.plain_ranges.push_back({begin, row_.text.size()});
        return *this;
    }
    /// From here to the end all is the answer, the turn `message`; what the row says before ends at `after`.
    PlainRow& answer(std::size_t message, std::size_t after) {
        row_.answers.push_back({.begin = row_.text.size(),
                                .message = message,
                                .after = after,
                                .supervised = true,
                                .ends = true});
        row_.adds_end = true;
        return *this;
    }
    std::size_t size() const { return row_.text.size(); }
    RenderedRow take() {
        if (!row_.answers.empty()) row_.answers.back().end = row_.text.size();
        return std::move(row_);
    }

  private:
    RenderedRow row_;
};

}  // namespace

RenderedRow render_alpaca(const Record& record, bool prompt_only) {
    const std::vector<Message>& turns = record.messages;
    const bool fits = turns.size() == (prompt_only ? 1U : 2U) && turns.front().role() == Role::kUser &&
                      (prompt_only || turns.back().role() == Role::kAssistant);
    if (!fits) {
        throw DataError(
            "the alpaca template has one instruction and one answer, no system message and no further "
            "turns; set data.template to chatml or llama3");
    }
    PlainRow row;
    row.words(record.input.empty() ? kAlpacaWithoutInput : kAlpacaWithInput).content(turns.front().content());
    if (!record.input.empty()) row.words(kAlpacaInput).content(record.input);
    const std::size_t said = row.size();
    row.words(kAlpacaResponse);
    if (!prompt_only) row.answer(1, said).content(turns.back().content());
    return row.take();
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

RenderedRow render_plain(const Record& record, bool prompt_only) {
    if (record.kind == RecordKind::kConversation) {
        throw DataError("a conversation needs a chat template; set data.template to chatml or llama3");
    }
    PlainRow row;
    if (record.kind == RecordKind::kText) {
        // A text is all answer: there is no prompt that could be left out of the loss.
        if (!prompt_only) row.answer(0, 0);
        row.words(record.text);
    } else {
        const std::vector<Message> turns = chat_turns(record);
        if (turns.size() != (prompt_only ? 1U : 2U)) {
            throw DataError(
                "a system message or earlier turns need a chat template; set data.template to chatml or "
                "llama3");
        }
        row.words(turns.front().content());
        if (!prompt_only) row.answer(1, row.size()).words(turns.back().content());
    }
    RenderedRow out = row.take();
    out.reads_control = true;
    return out;
}

}  // namespace qlora::data
