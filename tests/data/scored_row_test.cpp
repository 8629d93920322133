#include "qlora/data/scored_row.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "data/template_samples.h"

namespace {

using namespace qlora;
using namespace qlora::data;
using namespace qlora::data::test;

constexpr std::int64_t kLong = 1000;

/// Text with the supervised tokens in braces.
std::string marked(const Example& row) {
    std::string out;
    for (std::size_t i = 0; i < row.ids.size(); ++i) {
        const bool opens = row.supervised[i] != 0 && (i == 0 || row.supervised[i - 1] == 0);
        const bool closes = row.supervised[i] != 0 && (i + 1 == row.ids.size() || row.supervised[i + 1] == 0);
        out += (opens ? "{" : "") + kTokenizer.decode({row.ids[i]}) + (closes ? "}" : "");
    }
    return out;
}

ScoredRow scored(const PromptTemplate& chat, const Record& record, std::int64_t max_length = kLong,
                 TrainOn train_on = TrainOn::kAssistant) {
    return scored_row(chat.encode(chat.render(record, train_on)), chat.special(), max_length);
}

/// The row and each of its answers alone.
std::vector<std::string> both(const ScoredRow& row) {
    std::vector<std::string> out{marked(row.with_prompts())};
    for (const ScoredAnswer& answer : row.answers) {
        out.push_back(marked(row.without_prompt(answer)));
        EXPECT_EQ(row.without_prompt(answer).supervised_tokens(), answer.scored_tokens());
    }
    return out;
}

PromptTemplate own(const std::string& text, const FakeTokenizer& tokenizer = kTokenizer) {
    return {TemplateName::kAuto, text, tokenizer, tokenizer.special()};
}

using Texts = std::vector<std::string>;

TEST(ScoredRow, WithoutItsPromptAnAnswerStandsBehindItsOpeningAlone) {
    Record row = conversation(kTwoTurns);
    row.messages.insert(row.messages.begin(), {Role::kSystem, "s"});
    EXPECT_EQ(both(scored(named(TemplateName::kChatml), row)),
              (Texts{"<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
                     "{b<|im_end|>}\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n{d<|im_end|>}",
                     "<|im_start|>assistant\n{b<|im_end|>}", "<|im_start|>assistant\n{d<|im_end|>}"}));
    EXPECT_EQ(scored(named(TemplateName::kChatml), row).answers[1].message, 4U);
}

TEST(ScoredRow, BosStaysAndTheOpeningNeedsNoTurnsEnd) {
    const PromptTemplate inst =
        own("{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
            "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}");
    Record row = conversation(kTwoTurns);
    EXPECT_EQ(both(scored(inst, row))[1], "[/INST]{b</s>}");
    TemplateInputs inputs;
    inputs.special_tokens["bos_token"] = "<s>";
    const PromptTemplate with_bos(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}",
        "inst", kTokenizer, kTokenizer.special(), inputs);
    EXPECT_EQ(both(scored(with_bos, row))[2], "<s>[/INST]{d</s>}");
}

TEST(ScoredRow, WhatTheTemplateMarksInPiecesIsOneAnswer) {
    const PromptTemplate blocks =
        own("{% for m in messages %}<|im_start|>{{ m.role }}:{% if m.role == 'assistant' %}"
            "{% generation %}{{ m.content }}{% endgeneration %}!{% generation %}<|im_end|>{% endgeneration %}"
            "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}");
    const Record row = conversation({{Role::kUser, "a"}, {Role::kAssistant, "b"}});
    EXPECT_EQ(both(scored(blocks, row)), (Texts{"<|im_start|>user:a<|im_end|><|im_start|>assistant:{b}!"
                                                "{<|im_end|>}",
                                                "<|im_start|>assistant:{b}!{<|im_end|>}"}));
}

TEST(ScoredRow, PlainPairsHaveNoOpeningAndTextsNoPrompt) {
    const Record pair = of_kind(RecordKind::kPair, "ask ", "tell");
    EXPECT_EQ(both(scored(named(TemplateName::kNone), pair)), (Texts{"ask {tell</s>}", "<s>{tell</s>}"}));
    EXPECT_EQ(both(scored(named(TemplateName::kNone, kTokenizerWithBos), pair)),
              (Texts{"<s>ask {tell</s>}", "<s>{tell</s>}"}));
    const ScoredRow alpaca =
        scored(named(TemplateName::kAlpaca), of_kind(RecordKind::kInstruction, "do", "done", "it"));
    EXPECT_EQ(both(alpaca)[1], "### Response:{done</s>}");
    EXPECT_EQ(alpaca.answers[0].message, 1U);
    EXPECT_TRUE(scored(named(TemplateName::kNone), text("words")).is_empty());
    EXPECT_TRUE(scored(named(TemplateName::kChatml), conversation({{Role::kAssistant, "b"}})).is_empty());
}

TEST(ScoredRow, WithoutAnyTokenBeforeItTheFirstOneIsScoredOnNeitherSide) {
    const PromptTemplate plain = named(TemplateName::kNone);
    EncodedRow row =
        plain.encode(plain.render(of_kind(RecordKind::kPair, "ask ", "tell"), TrainOn::kAssistant));
    EXPECT_EQ(both(scored_row(row, {.bos = {}, .eos = FakeTokenizer::kEos, .pad = {}}, kLong))[1],
              "</s>{tell</s>}");
    EXPECT_EQ(both(scored_row(row, {}, kLong)), (Texts{"ask t{ell</s>}", "t{ell</s>}"}));
}

TEST(ScoredRow, OnlyAnswersWithALossAreScoredAndOnlyWithinMaxLength) {
    const PromptTemplate chatml = named(TemplateName::kChatml);
    Record row = conversation(kTwoTurns);
    EXPECT_EQ(both(scored(chatml, row, kLong, TrainOn::kLastAssistant)).size(), 2U);
    row.messages[3].switch_off();
    EXPECT_EQ(both(scored(chatml, row)),
              (Texts{"<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n{b<|im_end|>}",
                     "<|im_start|>assistant\n{b<|im_end|>}"}));
    const auto whole = static_cast<std::int64_t>(scored(chatml, row).ids.size());
    EXPECT_EQ(both(scored(chatml, row, whole - 1))[1], "<|im_start|>assistant\n{b}");
    EXPECT_TRUE(scored(chatml, row, whole - 2).is_empty());
}

}  // namespace
