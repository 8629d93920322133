#include <gtest/gtest.h>

#include "data_report/copied_answers.h"
#include "data_report/poor_answers.h"
#include "qlora/data_report/dominating_answers.h"
#include "qlora/data_report/scripts.h"
#include "sample_rows.h"

namespace qlora::data_report::test {
namespace {

using Numbers = std::vector<std::size_t>;

struct AnswerCase {
    const char* answer;
    bool is_empty, refuses, is_boilerplate;
};

TEST(PoorAnswers, are_told_in_several_languages) {
    const AnswerCase cases[] = {
        {"42", false, false, false},
        {"+", false, false, false},
        {"...", true, false, false},
        {"\xE2\x80\x8B \xE2\x80\xA6", true, false, false},  // a zero-width space and an ellipsis
        {"I\xE2\x80\x99m sorry, but I can\xE2\x80\x99t do that.", false, true, false},
        {"I cannot   assist with that", false, true, false},
        {"I cannot recommend this book enough.", false, false, false},
        {"Hi I can't help with tax", false, true, false},
        {"죄송하지만 그 요청은 도와드릴 수 없습니다.", false, true, false},
        {"抱歉，我无法回答这个问题。", false, true, false},
        {"申し訳ありませんが、お答えできません。", false, true, false},
        {"Es tut mir leid, aber ich kann das nicht.", false, true, false},
        {"Извините, но я не могу помочь.", false, true, false},
        {"Lo siento, pero no puedo.", false, true, false},
        {"As an AI language model, I like tea.", false, false, true},
        {"The sum is 4. I hope this helps!", false, false, true},
        {"답은 4입니다. 도움이 되길 바랍니다.", false, false, true},
        {"Whether I hope this helpstring", false, false, true},
        {"Alibi hope that helps none", false, false, true},
        {"xi hope this helps", false, false, true},  // "hope this helps" begins a word
        {"whope this helps", false, false, false},
    };
    for (const AnswerCase& one : cases) {
        const std::vector<Row> rows = placed({pair_row("q", one.answer)});
        Findings findings(1);
        find_poor_answers(rows, findings);
        EXPECT_EQ(findings.count(FindingKind::kEmptyAnswer), one.is_empty) << one.answer;
        EXPECT_EQ(findings.count(FindingKind::kRefusingAnswer), one.refuses) << one.answer;
        EXPECT_EQ(findings.count(FindingKind::kBoilerplateAnswer), one.is_boilerplate) << one.answer;
    }
}

TEST(PoorAnswers, a_refusal_is_at_the_beginning_and_trained) {
    std::vector<Row> rows =
        placed({pair_row("q", std::string(200, 'x') + " I cannot assist with that"),
                pair_row("I cannot assist with that", "fine"), pair_row("q", "I cannot assist with that")});
    rows[2].turns[1].trained = false;
    Findings findings(rows.size());
    find_poor_answers(rows, findings);
    EXPECT_EQ(findings.count(FindingKind::kRefusingAnswer), 0);
}

// 12 of 30 answers are "yes" in one spelling or another; "no" comes nine times, one too few.
TEST(DominatingAnswers, are_a_share_of_all) {
    std::vector<Row> rows;
    for (int i = 0; i < 12; ++i) rows.push_back(pair_row(std::to_string(i), i % 2 == 0 ? "Yes" : " yes\n"));
    for (int i = 0; i < 9; ++i) rows.push_back(pair_row(std::to_string(i), "no"));
    for (int i = 0; i < 9; ++i) rows.push_back(pair_row(std::to_string(i), "own " + std::to_string(i)));
    rows.push_back(pair_row("held", "yes", Part::kHeldOut));
    Findings findings(rows.size());
    const std::vector<DominatingAnswer> found = find_dominating_answers(rows, findings);
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].text, "Yes");
    EXPECT_EQ(found[0].answers, 12);
    EXPECT_DOUBLE_EQ(found[0].share, 0.4);
    EXPECT_EQ(findings.count(FindingKind::kDominatingAnswer), 12);
}

// The answer has 44 characters and so 40 5-grams; with "XY" in its middle 6 of 42 are not in the prompt.
TEST(CopiedAnswers, are_told_by_their_5_grams) {
    const std::string quoted = "The quick brown fox jumps over the lazy dogs";
    ASSERT_EQ(quoted.size(), 44U);
    const std::string changed = quoted.substr(0, 20) + "XY" + quoted.substr(20);
    const std::vector<Row> rows =
        placed({pair_row("Repeat: " + quoted + ", please", "the QUICK brown fox jumps over the lazy dogs"),
                pair_row("Repeat: " + quoted + ", please", changed), pair_row("Say fox", "fox")});
    Findings findings(rows.size());
    find_copied_answers(rows, 1, findings);
    EXPECT_EQ(rows_with(findings, FindingKind::kCopiedAnswer, rows.size()), Numbers{0});
    EXPECT_DOUBLE_EQ(findings.find(0, FindingKind::kCopiedAnswer)->figures.at("copied").get<double>(), 1);
}

TEST(Scripts, of_letters_and_of_texts) {
    EXPECT_EQ(script_of('a'), "Latin");
    EXPECT_EQ(script_of(U'é'), "Latin");
    EXPECT_EQ(script_of('1'), "");
    EXPECT_EQ(script_of(U'、'), "");
    EXPECT_EQ(script_of(U'한'), "Hangul");
    EXPECT_EQ(script_of(U'漢'), "Han");
    EXPECT_EQ(script_of(U'ж'), "Cyrillic");
    EXPECT_EQ(script_of(U'ก'), "Thai");
    EXPECT_EQ(main_script("short"), "");
    EXPECT_EQ(main_script("안녕하세요 반갑습니다 여러분, hello"), "Hangul");
    EXPECT_EQ(main_script("私は毎日日本語を勉強しています"), "Japanese");
    EXPECT_EQ(main_script("我每天都在学习中文和数学"), "Han");
    EXPECT_EQ(main_script("abcde абвгд"), "");  // half and half
}

TEST(Scripts, of_answers_against_their_prompts) {
    const std::vector<Row> rows =
        placed({pair_row("Where is the station?", "역은 저기 오른쪽 모퉁이에 있습니다"),
                pair_row("Where is the station?", "It is over there"),
                pair_row("역은 어디에 있습니까 알려 주세요", "42")});
    Findings findings(rows.size());
    const ScriptPairs pairs = find_other_scripts(rows, findings);
    EXPECT_EQ(pairs, (ScriptPairs{{{"Latin", "Hangul"}, 1}, {{"Latin", "Latin"}, 1}}));
    EXPECT_EQ(rows_with(findings, FindingKind::kOtherScript, rows.size()), Numbers{0});
}

}  // namespace
}  // namespace qlora::data_report::test
