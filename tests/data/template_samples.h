#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/fake_tokenizer.h"
#include "qlora/data/prompt_template.h"

namespace qlora::data::test {

inline const FakeTokenizer kTokenizer;
inline const FakeTokenizer kTokenizerWithBos(true);

inline PromptTemplate named(TemplateName name, const FakeTokenizer& tokenizer = kTokenizer) {
    return {name, std::nullopt, tokenizer, tokenizer.special()};
}

inline Record conversation(std::vector<Message> messages) {
    Record record;
    record.kind = RecordKind::kConversation;
    record.messages = std::move(messages);
    return record;
}

inline Record of_kind(RecordKind kind, const std::string& prompt, const std::string& answer,
                      const std::string& input = "") {
    Record record = conversation({{Role::kUser, prompt}, {Role::kAssistant, answer}});
    record.kind = kind;
    record.input = input;
    return record;
}

inline Record text(const std::string& words) {
    Record record;
    record.kind = RecordKind::kText;
    record.text = words;
    return record;
}

inline const std::vector<Message> kTwoTurns = {
    {Role::kUser, "a"}, {Role::kAssistant, "b"}, {Role::kUser, "c"}, {Role::kAssistant, "d"}};

}  // namespace qlora::data::test
