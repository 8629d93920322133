#include "data_report/leaks.h"

#include <gtest/gtest.h>

#include "sample_rows.h"

namespace qlora::data_report::test {
namespace {

using Numbers = std::vector<std::size_t>;

// words(3, 5): "n3 n4 n5"
std::string words(int first, int last) {
    std::string out;
    for (int i = first; i <= last; ++i) out += (out.empty() ? "n" : " n") + std::to_string(i);
    return out;
}

TEST(WordGrams, are_runs_of_thirteen_words) {
    EXPECT_EQ(word_grams(words(1, 12)).size(), 0U);
    EXPECT_EQ(word_grams(words(1, 13)).size(), 1U);
    EXPECT_EQ(word_grams(words(1, 15)).size(), 3U);
    EXPECT_EQ(word_grams("N1, n2; n3-n4 n5 n6 n7 n8 n9 n10 n11 n12. (n13)"), word_grams(words(1, 13)));
    EXPECT_EQ(word_grams("一二三四五六七八九十一二三").size(), 1U);
    EXPECT_EQ(word_grams("가 나 다 라 마 바 사 아 자 차 카 타 파하").size(), 1U);
}

TEST(Leaks, answers_that_share_thirteen_words) {
    const std::vector<Row> rows =
        placed({pair_row("a", "so " + words(1, 20) + " end"), pair_row("b", words(50, 70)),
                pair_row("c", words(1, 14), Part::kHeldOut), pair_row("d", words(9, 24), Part::kHeldOut),
                text_row(words(50, 62), Part::kHeldOut), pair_row(words(1, 20), "no", Part::kHeldOut)});
    Findings findings(rows.size());
    find_leaks(rows, findings);
    EXPECT_EQ(rows_with(findings, FindingKind::kLeakedWords, rows.size()), (Numbers{2, 4}));
    const Finding* leaked = findings.find(2, FindingKind::kLeakedWords);
    EXPECT_EQ(leaked->other, 0);
    EXPECT_EQ(leaked->figures.at("runs_of_13_words"), 2);
    EXPECT_EQ(leaked->figures.at("in_training"), 2);
    EXPECT_EQ(findings.find(4, FindingKind::kLeakedWords)->other, 1);
}

TEST(Leaks, prompts_that_are_trained_with_another_answer) {
    const std::vector<Row> rows =
        placed({pair_row("a", "x"), pair_row("a", "y", Part::kHeldOut), pair_row("b", "x", Part::kHeldOut)});
    Findings findings(rows.size());
    find_leaks(rows, findings);
    EXPECT_EQ(rows_with(findings, FindingKind::kLeakedPrompt, rows.size()), Numbers{1});
    EXPECT_EQ(findings.find(1, FindingKind::kLeakedPrompt)->other, 0);
}

}  // namespace
}  // namespace qlora::data_report::test
