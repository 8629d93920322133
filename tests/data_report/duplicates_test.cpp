#include "data_report/duplicates.h"

#include <gtest/gtest.h>

#include "data_report/folded_text.h"
#include "data_report/min_hash.h"
#include "sample_rows.h"

namespace qlora::data_report::test {
namespace {

using Numbers = std::vector<std::size_t>;

std::string long_text(int seed, int words = 60) {
    std::string out;
    for (int i = 0; i < words; ++i)
        out += "w" + std::to_string((i * 7919 + seed * 104729 + i * i * seed) % 10007) + " ";
    return out;
}

// "abcdef" has the 5-grams abcde, bcdef; "abcdefg" has cdefg besides.
TEST(MinHash, jaccard_of_counted_grams) {
    const auto shingles = [](const char* text) { return shingles_of(fold(text)); };
    EXPECT_EQ(shingles("abcdef").size(), 2U);
    EXPECT_EQ(shingles("ababababab").size(), 2U);  // ababa and babab
    EXPECT_EQ(shingles("abc").size(), 1U);
    EXPECT_TRUE(shingles(" \n ").empty());
    EXPECT_DOUBLE_EQ(jaccard(shingles("abcdef"), shingles("abcdefg")), 2.0 / 3);
    EXPECT_DOUBLE_EQ(jaccard(shingles("ABC  def"), shingles("abc\ndef")), 1);
    EXPECT_DOUBLE_EQ(jaccard(shingles("abcdef"), shingles("uvwxyz")), 0);
    EXPECT_DOUBLE_EQ(jaccard({}, {}), 0);
    EXPECT_EQ(shingles("한국어 문장").size(), 2U);  // of characters, not of bytes
}

TEST(MinHash, agreement_is_near_the_similarity) {
    for (int seed = 1; seed < 9; ++seed) {
        const auto a = shingles_of(fold(long_text(seed, 200)));
        const auto b = shingles_of(fold(long_text(seed, 200).substr(0, 900) + long_text(seed + 50, 20)));
        // One standard deviation over 128 bins is at most 0.045.
        EXPECT_NEAR(agreement(sign(a), sign(b)), jaccard(a, b), 0.16);
    }
}

TEST(MinHash, short_texts_have_whole_signatures) {
    const auto one = shingles_of(fold("yes")), other = shingles_of(fold("no"));
    EXPECT_DOUBLE_EQ(agreement(sign(one), sign(one)), 1);
    EXPECT_LT(agreement(sign(one), sign(other)), 0.1);
}

TEST(Duplicates, exact_and_near_ones_name_the_earlier_row) {
    const std::string text = long_text(1);
    std::vector<Row> rows =
        placed({pair_row("q1", text), pair_row("q2", long_text(2)), pair_row("q1", text),
                pair_row("Q1", text + "!"), pair_row("q3", long_text(3)), text_row("short")});
    rows[2].setting = "Another system prompt, which many rows share and which is left out.";
    Findings findings(rows.size());
    find_duplicates(rows, 1, findings);
    EXPECT_EQ(rows_with(findings, FindingKind::kExactDuplicate, rows.size()), Numbers{2});
    EXPECT_EQ(findings.find(2, FindingKind::kExactDuplicate)->other, 0);
    EXPECT_EQ(rows_with(findings, FindingKind::kNearDuplicate, rows.size()), Numbers{3});
    const Finding* near = findings.find(3, FindingKind::kNearDuplicate);
    EXPECT_EQ(near->other, 0);
    const auto shingles = [&](std::size_t row) { return shingles_of(fold(rows[row].text())); };
    EXPECT_DOUBLE_EQ(near->figures.at("jaccard").get<double>(), jaccard(shingles(0), shingles(3)));
}

// Alike as these are in their system prompts, their own texts share nothing.
TEST(Duplicates, a_shared_setting_makes_no_rows_alike) {
    std::vector<Row> rows = placed({pair_row("q", long_text(4)), pair_row("r", long_text(5))});
    for (Row& row : rows) row.setting = long_text(6, 500);
    Findings findings(rows.size());
    find_duplicates(rows, 1, findings);
    EXPECT_EQ(findings.count(FindingKind::kNearDuplicate), 0);
}

TEST(Duplicates, held_out_rows_leak_exactly_or_nearly) {
    const std::string text = long_text(7);
    const std::vector<Row> rows =
        placed({pair_row("q", text), pair_row("other", long_text(8)), pair_row("q", text, Part::kHeldOut),
                pair_row("q", text + " end", Part::kHeldOut), pair_row("own", long_text(9), Part::kHeldOut)});
    Findings findings(rows.size());
    find_duplicates(rows, 1, findings);
    EXPECT_EQ(rows_with(findings, FindingKind::kLeakedRow, rows.size()), Numbers{2});
    EXPECT_EQ(rows_with(findings, FindingKind::kLeakedNear, rows.size()), Numbers{3});
    EXPECT_EQ(findings.find(3, FindingKind::kLeakedNear)->other, 0);
    EXPECT_EQ(findings.count(FindingKind::kExactDuplicate), 0);
    EXPECT_EQ(rows_with(findings, FindingKind::kNearDuplicate, rows.size()), Numbers{3});  // of row 2
}

TEST(Duplicates, rows_made_of_one_row_are_not_compared) {
    std::vector<Row> rows = {pair_row("q", long_text(1)), pair_row("q", long_text(1) + "more")};
    for (Row& row : rows) row.place = "rows.jsonl:1";
    Findings findings(rows.size());
    find_duplicates(rows, 1, findings);
    EXPECT_EQ(findings.count(FindingKind::kNearDuplicate), 0);
}

TEST(Duplicates, threads_change_nothing) {
    std::vector<Row> rows;
    for (int i = 0; i < 200; ++i) rows.push_back(pair_row("q", long_text(i % 40) + std::to_string(i)));
    rows = placed(rows);
    Findings one(rows.size()), three(rows.size());
    find_duplicates(rows, 1, one);
    find_duplicates(rows, 3, three);
    EXPECT_EQ(one.count(FindingKind::kNearDuplicate), 160);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const Finding* a = one.find(i, FindingKind::kNearDuplicate);
        const Finding* b = three.find(i, FindingKind::kNearDuplicate);
        ASSERT_EQ(a == nullptr, b == nullptr);
        if (a != nullptr) {
            EXPECT_EQ(a->other, b->other);
        }
    }
}

}  // namespace
}  // namespace qlora::data_report::test
