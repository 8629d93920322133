#include <algorithm>

#include "qlora/core/error.h"
#include "qlora/data/prompt_template.h"

namespace qlora::data {
namespace {

[[noreturn]] void fail(const std::string& what) {
    throw DataError("the answer mask of this row cannot be proven: " + what);
}

bool contains(const std::vector<tokenizer::TokenId>& ids, tokenizer::TokenId id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
}

void prove_answer(const EncodedRow& row, const AnswerSpan& span, const PromptTemplate& prompt_template) {
    const auto token = [&](std::size_t i) { return row.ids[i]; };
    if (span.begin >= span.end) fail("an answer has no tokens");
    if (span.ends && !contains(prompt_template.end_token_ids(), token(span.end - 1))) {
        fail("the answer at token " + std::to_string(span.begin) + " does not end in an end token but in " +
             prompt_template.tokenizer().id_to_token(token(span.end - 1)));
    }
    if (span.plain) return;
    for (std::size_t i = span.begin; i + 1 < span.end; ++i) {
        if (contains(prompt_template.control_ids(), token(i))) {
            fail("the control token " + prompt_template.tokenizer().id_to_token(token(i)) +
                 " stands inside the answer");
        }
    }
}

}  // namespace

void prove_answer_mask(const EncodedRow& row, const PromptTemplate& prompt_template, TrainOn train_on) {
    if (row.ids.size() != row.supervised.size()) fail("tokens and mask differ in length");
    std::vector<std::uint8_t> expected(row.ids.size(), train_on == TrainOn::kAll ? 1 : 0);
    std::size_t last_end = 0;
    for (const AnswerSpan& span : row.answers) {
        if (span.begin < last_end || span.end > row.ids.size()) fail("answers overlap");
        last_end = span.end;
        prove_answer(row, span, prompt_template);
        // With `all` an answer is left out only where the row switches it off.
        std::fill(expected.begin() + static_cast<std::ptrdiff_t>(span.begin),
                  expected.begin() + static_cast<std::ptrdiff_t>(span.end),
                  static_cast<std::uint8_t>(span.supervised ? 1 : 0));
    }
    if (!expected.empty()) expected.front() = 0;
    const auto difference = std::mismatch(expected.begin(), expected.end(), row.supervised.begin());
    if (difference.first != expected.end()) {
        fail("token " + std::to_string(difference.first - expected.begin()) + " is marked wrongly");
    }
}

std::optional<PromptDifference> prompt_difference(const Record& record, const EncodedRow& row,
                                                  const PromptTemplate& prompt_template) {
    if (record.kind == RecordKind::kText || row.answers.empty()) return std::nullopt;
    Record prompt = record;
    while (!prompt.messages.empty() && prompt.messages.back().role() != Role::kAssistant)
        prompt.messages.pop_back();
    if (!prompt.messages.empty()) prompt.messages.pop_back();
    if (prompt.messages.empty()) return std::nullopt;  // nothing is asked, so nothing is generated
    const std::vector<tokenizer::TokenId> alone =
        prompt_template.encode(prompt_template.render_prompt(prompt)).ids;
    const auto answer = row.ids.begin() + static_cast<std::ptrdiff_t>(row.last_answer_begin());
    const auto [trained, inferred] = std::mismatch(row.ids.begin(), answer, alone.begin(), alone.end());
    if (trained == answer && inferred == alone.end()) return std::nullopt;
    const tokenizer::Tokenizer& tokenizer = prompt_template.tokenizer();
    return PromptDifference{.trained = tokenizer.decode({trained, answer}),
                            .inferred = tokenizer.decode({inferred, alone.end()})};
}

}  // namespace qlora::data
