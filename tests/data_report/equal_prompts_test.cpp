#include "qlora/data_report/equal_prompts.h"

#include <gtest/gtest.h>

#include <cmath>

#include "sample_rows.h"

namespace qlora::data_report::test {
namespace {

using Numbers = std::vector<std::size_t>;

// Prompt "a" has the answers x, x, x, y: 3 ln(4/3) + ln 4 nats. "b" has one answer twice, "c" is alone.
TEST(EqualPrompts, floor_is_the_entropy_of_the_answers) {
    const std::vector<Row> rows =
        placed({pair_row("a", "x"), pair_row("a", "x"), pair_row("b", "x"), pair_row("a", "y"),
                pair_row("a", "x"), pair_row("b", "x"), pair_row("c", "z")});
    Findings findings(rows.size());
    const EqualPrompts found = find_equal_prompts(rows, findings);
    EXPECT_EQ(found.prompts, 1);
    EXPECT_EQ(found.answers, 4);
    const double nats = 3 * std::log(4.0 / 3) + std::log(4.0);
    EXPECT_DOUBLE_EQ(found.nats, nats);
    EXPECT_DOUBLE_EQ(found.nats_per_row(), nats / 7);
    EXPECT_DOUBLE_EQ(found.nats_per_token(), nats / 28);  // 4 trained tokens a row
    EXPECT_EQ(rows_with(findings, FindingKind::kEqualPrompt, rows.size()), (Numbers{0, 1, 3, 4}));
    const Finding* finding = findings.find(3, FindingKind::kEqualPrompt);
    EXPECT_EQ(finding->other, 0);
    EXPECT_EQ(finding->figures.at("rows"), 4);
    EXPECT_EQ(finding->figures.at("answers"), 2);
    EXPECT_EQ(findings.find(0, FindingKind::kEqualPrompt)->other, 3);
}

TEST(EqualPrompts, another_setting_another_role_or_a_held_out_row_is_another_prompt) {
    std::vector<Row> rows = placed(
        {pair_row("a", "x"), pair_row("a", "y"), pair_row("a", "z"), pair_row("a", "w", Part::kHeldOut)});
    rows[1].setting = "Answer in one letter.";
    rows[2].turns[0].role = data::Role::kTool;
    Findings findings(rows.size());
    EXPECT_EQ(find_equal_prompts(rows, findings).prompts, 0);
    EXPECT_EQ(rows_with(findings, FindingKind::kEqualPrompt, rows.size()), Numbers{});
}

// The second answers follow on different first ones, so only the first answers contradict each other.
TEST(EqualPrompts, each_trained_answer_of_a_conversation_has_its_prompt) {
    std::vector<Row> rows = placed({pair_row("a", "x"), pair_row("a", "y")});
    for (Row& row : rows) {
        row.turns.push_back({.role = data::Role::kUser, .text = "and then?"});
        row.turns.push_back({.role = data::Role::kAssistant, .text = row.place, .trained = true});
    }
    Findings findings(rows.size());
    EXPECT_DOUBLE_EQ(find_equal_prompts(rows, findings).nats, 2 * std::log(2.0));
    EXPECT_EQ(findings.find(0, FindingKind::kEqualPrompt)->turn, 1);
    rows[1].turns[1].trained = false;
    Findings none(rows.size());
    EXPECT_EQ(find_equal_prompts(rows, none).prompts, 0);
}

TEST(EqualPrompts, running_text_has_no_prompt) {
    const std::vector<Row> rows = placed({text_row("a"), text_row("b")});
    Findings findings(rows.size());
    EXPECT_EQ(find_equal_prompts(rows, findings).prompts, 0);
}

}  // namespace
}  // namespace qlora::data_report::test
