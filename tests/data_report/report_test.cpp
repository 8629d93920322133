#include "qlora/data_report/report.h"

#include <gtest/gtest.h>
#include <spdlog/fmt/fmt.h>

#include <algorithm>

#include "data_report/html_text.h"
#include "data_report/svg_histogram.h"
#include "sample_rows.h"

namespace qlora::data_report::test {
namespace {

using Numbers = std::vector<std::size_t>;

// Of 100, 600 and 2,000 tokens, with 40, 100 and 1,600 at their ends that are trained.
TEST(Lengths, what_max_length_costs) {
    const std::vector<Row> rows =
        placed({pair_row("a", "x", Part::kTrain, 100, 40), pair_row("b", "x", Part::kTrain, 600, 100),
                pair_row("c", "x", Part::kTrain, 2000, 1600), pair_row("d", "x", Part::kHeldOut, 9999, 1)});
    Findings findings(rows.size());
    const Lengths found = find_lengths(rows, 1000, findings);
    EXPECT_EQ(found.tokens, 2700);
    EXPECT_EQ(found.trained, 1740);
    EXPECT_EQ(found.of_rows.half, 600);
    EXPECT_EQ(found.of_rows.nine_tenths, 2000);
    ASSERT_EQ(found.costs.size(), 4U);  // 512, 1000, 1024, 2048
    EXPECT_EQ(found.costs[0].rows, 2);
    EXPECT_EQ(found.costs[0].dropped, 2600);
    EXPECT_EQ(found.costs[0].dropped_trained, 1700);
    EXPECT_EQ(found.costs[0].cut, 88 + 1488);
    EXPECT_EQ(found.costs[0].cut_trained, 88 + (1600 - 112));
    EXPECT_EQ(found.costs[1].max_length, 1000);
    EXPECT_EQ(found.costs[1].rows, 1);
    EXPECT_EQ(found.costs[3].max_length, 2048);
    EXPECT_EQ(found.costs[3].rows, 0);
    EXPECT_EQ(rows_with(findings, FindingKind::kTooLong, rows.size()), (Numbers{2, 3}));
    EXPECT_EQ(findings.find(2, FindingKind::kTooLong)->figures.at("over"), 1000);
}

TEST(Lengths, of_no_rows_are_none) {
    Findings findings(0);
    EXPECT_EQ(find_lengths({}, 512, findings).costs.size(), 1U);
}

TEST(Histograms, have_round_bins_and_one_for_the_rest) {
    std::vector<double> values;
    for (int i = 0; i < 199; ++i) values.push_back(i % 60);
    values.push_back(100000);
    const Histogram counted = count_values(values);
    EXPECT_DOUBLE_EQ(counted.width, 2);
    EXPECT_TRUE(counted.last_is_open);
    EXPECT_EQ(counted.counts.size(), 31U);
    EXPECT_EQ(counted.counts[0], 8);  // 0 and 1, in four rounds
    EXPECT_EQ(counted.counts.back(), 1);
    EXPECT_TRUE(count_values({}).counts.empty());
    EXPECT_EQ(count_values({0, 0}).counts, std::vector<std::int64_t>{2});
    EXPECT_EQ(svg_histogram(count_values({}), "none", "x"), "");
    EXPECT_NE(svg_histogram(counted, "a < b", "tokens").find("a &lt; b"), std::string::npos);
}

TEST(Histograms, of_negative_values_have_an_edge_at_0_and_a_bin_for_the_rest_at_either_end) {
    std::vector<double> values{-50, 70};
    for (int i = 0; i < 198; ++i) values.push_back(0.01 * i - 1.485);  // -1.485 to 0.485
    const Histogram counted = count_values(values);
    EXPECT_DOUBLE_EQ(counted.width, 0.1);
    EXPECT_NEAR(counted.from, -1.6, 1e-12);
    EXPECT_TRUE(counted.first_is_open && counted.last_is_open);
    EXPECT_EQ(counted.counts.front(), 1);
    EXPECT_EQ(counted.counts.back(), 1);
    EXPECT_EQ(counted.counts[15], 10);  // -0.1 to 0
    std::int64_t below = 0;
    for (std::size_t i = 0; i < 16; ++i) below += counted.counts[i];
    EXPECT_EQ(below, std::count_if(values.begin(), values.end(), [](double value) { return value < 0; }));
    const std::string svg = svg_histogram(counted, "c", "nats", Mark{0, "a < b"}, "answers");
    EXPECT_NE(svg.find("<line x1=\"" +
                       fmt::format("{:.1f}", 640.0 * 16 / static_cast<double>(counted.counts.size()))),
              std::string::npos)
        << svg;
    EXPECT_NE(svg.find(">0</text>"), std::string::npos) << svg;
    EXPECT_NE(svg.find("<title>a &lt; b</title>"), std::string::npos);
    EXPECT_NE(svg.find("<title>less to -1.5 nats: 1 answers</title>"), std::string::npos) << svg;
    EXPECT_NE(svg.find("<title>0.5 to up nats: 1 answers</title>"), std::string::npos) << svg;
    EXPECT_EQ(count_values({-0.5}).counts.size(), 26U);  // 25 of 0.02 below 0, one from 0
}

TEST(HtmlText, is_never_markup_and_shows_what_is_not_seen) {
    EXPECT_EQ(html_text("<script>alert('1')</script> & \"x\""),
              "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;x&quot;");
    EXPECT_EQ(html_text(std::string("a\0b\x07\x7F", 5)), "a[U+0000]b[U+0007][U+007F]");
    EXPECT_EQ(html_text("\xE2\x80\xAE"
                        "evil"),
              "[U+202E]evil");
    EXPECT_EQ(html_text("line\n\ttab"), "line\n\ttab");
    EXPECT_EQ(html_text("\xFF"), "\xEF\xBF\xBD");
    EXPECT_EQ(html_beginning("한국어 <b>", 3), "한국어<i> ... 4 more characters</i>");
}

TEST(Report, lines_and_page_of_hostile_rows) {
    const std::string evil = "</pre></style><script>alert(1)</script><img src=x onerror=alert(2)>";
    std::vector<Row> rows =
        placed({pair_row(evil, evil + evil), pair_row(evil, "\xE2\x80\xAE\x1B[31m" + evil),
                text_row(std::string(1 << 20, 'z')), text_row("")});
    rows[0].place = "<b>\xFF.jsonl:1";
    Report report = look_at(rows, {.max_length = 5, .threads = 2});
    report.rejected.push_back({"<i>:4", "a \"reason\" <b>", ""});
    const Json line = Json::parse(row_line(report, 0));
    EXPECT_EQ(line.at("place"), "<b>\xEF\xBF\xBD.jsonl:1");
    EXPECT_EQ(line.at("findings").at(0).at("name"), "too_long");
    EXPECT_EQ(line.at("findings").at(1).at("name"), "equal_prompt");
    EXPECT_EQ(line.at("findings").at(1).at("other"), "rows.jsonl:2");
    EXPECT_EQ(Json::parse(rejected_line(report.rejected[0])).at("rejected"), "a \"reason\" <b>");
    const std::string page = html_page(report, "<b>" + evil);
    for (const char* markup : {"<script", "<img", "<b>", "\x1B", "\xE2\x80\xAE", "http:", "https:", "\xFF"})
        EXPECT_EQ(page.find(markup), std::string::npos) << markup;
    EXPECT_LT(page.size(), 40000U);  // of a row of a MB only the beginning
    EXPECT_EQ(summary_json(report).at("findings").at("equal_prompt"), 2);
    EXPECT_EQ(summary_json(report).at("rejected"), 1);
    EXPECT_NE(summary_text(report).find("1 prompts have 2 answers"), std::string::npos);
}

TEST(Report, names_answers_that_are_likelier_without_their_prompts) {
    std::vector<Row> rows = placed({pair_row("true", "x"), pair_row("false", "<b>y"), pair_row("worse", "z"),
                                    pair_row("not scored", "x"), pair_row("equal", "w", Part::kHeldOut)});
    rows[0].scores = {{.turn = 1, .tokens = 4, .with_prompt = 4, .without_prompt = 8}};
    rows[1].scores = {{.turn = 1, .tokens = 2, .with_prompt = 5, .without_prompt = 4}};
    rows[2].scores = {{.turn = 1, .tokens = 3, .with_prompt = 1, .without_prompt = 6},
                      {.turn = 1, .tokens = 1, .with_prompt = 4, .without_prompt = 1}};
    rows[4].scores = {{.turn = 1, .tokens = 2, .with_prompt = 2, .without_prompt = 2}};
    const Scoring scoring{.rows = 5, .without_prompt = 7, .too_long = 6, .seed = 42, .stopped = true};
    const Report report = look_at(rows, {.max_length = 50, .scoring = scoring});
    EXPECT_EQ(rows_with(report.findings, FindingKind::kUnpromptedAnswer, 5), (Numbers{1, 2}));
    const Finding& found = *report.findings.find(1, FindingKind::kUnpromptedAnswer);
    EXPECT_DOUBLE_EQ(found.weight, 0.5);
    EXPECT_EQ(found.figures.at("loss_with_prompt"), 2.5);
    EXPECT_EQ(found.figures.at("sum_without_prompt"), 4.0);
    EXPECT_DOUBLE_EQ(report.findings.find(2, FindingKind::kUnpromptedAnswer)->weight, 3);
    const Json line = Json::parse(row_line(report, 0));
    EXPECT_TRUE(line.at("findings").empty());
    EXPECT_EQ(line.at("scores"), Json::parse(R"([{"tokens": 4, "loss_with_prompt": 1.0,
        "loss_without_prompt": 2.0, "sum_with_prompt": 4.0, "sum_without_prompt": 8.0}])"));
    EXPECT_FALSE(Json::parse(row_line(report, 3)).contains("scores"));
    const Json summary = summary_json(report);
    EXPECT_EQ(summary.at("findings").at("unprompted_answer"), 2);
    EXPECT_EQ(summary.at("scores"), Json::parse(R"({"rows": 4, "answers": 5, "tokens": 12,
        "loss_with_prompt": 1.3333333333333333, "loss_without_prompt": 1.75, "likelier_without_prompt": 2,
        "rows_with_prompt": 5, "rows_without_prompt": 7, "rows_too_long": 6, "stopped": true, "seed": 42})"));
    const std::string text = summary_text(report);
    EXPECT_NE(text.find("a model scored 4 of 5 rows, chosen by training.seed 42, until a signal stopped it"),
              std::string::npos);
    EXPECT_NE(text.find("2 (40.0 %) are likelier without"), std::string::npos);
    const std::string page = html_page(report, "scored");
    EXPECT_NE(page.find("<h2 id=\"scores\">"), std::string::npos);
    EXPECT_LT(page.find(">worse<"), page.find(">false<"));  // the worst first
    // Without a model nothing tells of it.
    const Report unscored = look_at(placed({pair_row("a", "x")}), {.max_length = 50});
    EXPECT_FALSE(summary_json(unscored).at("findings").contains("unprompted_answer"));
    for (const std::string& shown : {summary_text(unscored), html_page(unscored, "u")}) {
        EXPECT_EQ(shown.find("unprompted"), std::string::npos);
        EXPECT_EQ(shown.find("model scored"), std::string::npos);
    }
}

TEST(Report, of_no_rows_and_of_one) {
    EXPECT_EQ(summary_json(look_at({}, {.max_length = 8})).at("train_rows"), 0);
    const Report report = look_at(placed({pair_row("a", "x")}), {.max_length = 100});
    EXPECT_EQ(Json::parse(row_line(report, 0)).at("findings"), Json::array());
    EXPECT_NE(html_page(report, "one").find("</html>"), std::string::npos);
}

}  // namespace
}  // namespace qlora::data_report::test
