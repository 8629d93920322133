#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "html_text.h"
#include "qlora/data_report/report.h"
#include "svg_histogram.h"

namespace qlora::data_report {
namespace {

constexpr std::size_t kRowsShown = 12;
constexpr std::size_t kCharactersShown = 700;
constexpr std::size_t kListed = 50;

// The policy keeps a browser from loading or running anything, should the page ever hold what it must not.
constexpr std::string_view kHead = R"(<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --line: #8886; --bar: #4a7db5; --mark: #c0392b }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem }
h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line) }
table { border-collapse: collapse; margin: .6rem 0 } .wide { overflow-x: auto } td.t { overflow-wrap: anywhere } td.n { white-space: nowrap }
td, th { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
figure { display: inline-block; width: min(33rem, 100%); margin: .6rem 1rem .6rem 0 }
svg { width: 100% } rect { fill: var(--bar) } line { stroke: var(--mark); stroke-width: 2 }
text { font-size: 12px; fill: currentColor }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; margin: .8rem 0; border: 1px solid var(--line); padding: .6rem }
.pair > div { min-width: 0 } .pair h4 { margin: 0 0 .3rem; font-size: .85rem; overflow-wrap: anywhere }
.pair > p { grid-column: 1 / -1; margin: 0; font-size: .85rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 .4rem; unicode-bidi: isolate; font-size: .85rem }
pre.answer { border-left: 3px solid var(--bar); padding-left: .5rem } i { opacity: .7 }
@media (max-width: 40rem) { .pair { grid-template-columns: 1fr } td, th { padding: .2rem .35rem } }
</style>
)";

std::string row_table(const std::vector<std::pair<std::string, std::string>>& rows) {
    std::string out = "<div class=\"wide\"><table>\n";
    for (const auto& [what, value] : rows)
        out +=
            fmt::format("<tr><th>{}</th><td class=\"n\">{}</td></tr>\n", html_text(what), html_text(value));
    return out + "</table></div>\n";
}

std::string overview(const Report& report) {
    const EqualPrompts& equal = report.equal_prompts;
    std::vector<std::pair<std::string, std::string>> table{
        {"rows to train on", std::to_string(report.count(Part::kTrain))},
        {"held-out rows", std::to_string(report.count(Part::kHeldOut))},
        {"rows that cannot be used", std::to_string(report.rejected.size())},
        {"tokens to train on", std::to_string(report.lengths.tokens)},
        {"of these with a loss", std::to_string(report.lengths.trained)},
        {"prompts with different answers", std::to_string(equal.prompts)},
        {"floor under the training loss by them, nats a token",
         fmt::format("{:.4f}", equal.nats_per_token())},
        {"the same, nats a row", fmt::format("{:.3f}", equal.nats_per_row())},
    };
    if (const auto& scores = report.scores) {
        table.emplace_back("rows that a model scored", std::to_string(scores->rows));
        table.emplace_back("loss of their answers with their prompts, nats a token",
                           fmt::format("{:.4f}", scores->loss_with()));
        table.emplace_back("the same without", fmt::format("{:.4f}", scores->loss_without()));
    }
    std::string out = row_table(table);
    out +=
        "<h2 id=\"findings\">Findings</h2>\n<div class=\"wide\"><table>\n<tr><th "
        "class=\"n\">rows</th><th>finding</th><th>rows "
        "that</th></tr>\n";
    for (const FindingName& kind : report.kinds()) {
        const std::int64_t count = report.findings.count(kind.kind);
        const std::string name =
            count > 0 ? fmt::format("<a href=\"#{0}\">{0}</a>", kind.name) : std::string(kind.name);
        out += fmt::format("<tr><td class=\"n\">{}</td><td>{}</td><td>{}</td></tr>\n", count, name,
                           html_text(kind.meaning));
    }
    return out + "</table></div>\n";
}

std::string lengths_section(const Report& report) {
    std::vector<double> tokens, trained;
    for (const Row& row : report.rows) {
        if (row.part != Part::kTrain) continue;
        tokens.push_back(static_cast<double>(row.tokens));
        trained.push_back(static_cast<double>(row.trained_within(row.tokens)));
    }
    std::string out = "<h2 id=\"lengths\">Lengths</h2>\n";
    out += svg_histogram(count_values(std::move(tokens)), "Tokens of a training row (line: max_length)",
                         "tokens", Mark{static_cast<double>(report.max_length), "max_length"});
    out += svg_histogram(count_values(std::move(trained)), "Tokens with a loss of a training row", "tokens");
    out +=
        "<div class=\"wide\"><table>\n<tr><th class=\"n\">max_length</th><th class=\"n\">longer rows</th><th "
        "class=\"n\">tokens "
        "that "
        "drop loses</th><th class=\"n\">with a loss</th><th class=\"n\">tokens that truncate loses</th><th "
        "class=\"n\">with a loss</th></tr>\n";
    for (const LengthCost& cost : report.lengths.costs) {
        out += "<tr>";
        for (const std::int64_t value :
             {cost.max_length, cost.rows, cost.dropped, cost.dropped_trained, cost.cut, cost.cut_trained})
            out += fmt::format("<td class=\"n\">{}</td>", value);
        out += "</tr>\n";
    }
    return out + "</table></div>\n";
}

std::string scores_section(const Report& report) {
    std::vector<double> differences;
    for (const Row& row : report.rows)
        for (const AnswerScore& score : row.scores) differences.push_back(score.difference());
    if (differences.empty()) return {};
    return "<h2 id=\"scores\">Answers with and without their prompts</h2>\n" +
           svg_histogram(count_values(std::move(differences)),
                         "Loss of an answer with its prompt less that without (right of the line: likelier "
                         "without it)",
                         "nats a token", Mark{0, "as likely without its prompt"}, "answers");
}

std::string shares_section(const Report& report) {
    std::string out;
    for (const auto& [kind, figure, caption] :
         {std::tuple{FindingKind::kNearDuplicate, "jaccard", "Similarity of near duplicates"},
          std::tuple{FindingKind::kCopiedAnswer, "copied",
                     "Share of copied answers that is in the prompt"}}) {
        std::vector<double> values;
        for (std::size_t row = 0; row < report.rows.size(); ++row)
            if (const Finding* finding = report.findings.find(row, kind))
                values.push_back(100 * finding->figures.at(figure).get<double>());
        if (!values.empty() && out.empty()) out += "<h2 id=\"alike\">Texts that are alike</h2>\n";
        if (!values.empty()) out += svg_histogram(count_values(std::move(values)), caption, "%");
    }
    if (!report.scripts.empty()) {
        out +=
            "<h2 id=\"scripts\">Scripts</h2>\n<div "
            "class=\"wide\"><table>\n<tr><th>prompt</th><th>answer</th><th "
            "class=\"n\">answers</th></tr>\n";
        for (const auto& [pair, answers] : report.scripts)
            out += fmt::format("<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td></tr>\n",
                               html_text(pair.first), html_text(pair.second), answers);
        out += "</table></div>\n";
    }
    if (!report.dominating.empty()) {
        out +=
            "<h2 id=\"answers\">Frequent answers</h2>\n<div class=\"wide\"><table>\n<tr><th "
            "class=\"n\">share</th><th "
            "class=\"n\">answers</th><th>text</th></tr>\n";
        for (const DominatingAnswer& answer : report.dominating)
            out += fmt::format(
                "<tr><td class=\"n\">{:.1f} %</td><td class=\"n\">{}</td><td><pre>{}</pre></td></tr>\n",
                100 * answer.share, answer.answers, html_beginning(answer.text, kCharactersShown));
        out += "</table></div>\n";
    }
    return out;
}

/// The turn that a finding is about, else the last answer, else the last turn.
std::size_t shown_turn(const Row& row, std::int64_t turn) {
    if (turn >= 0) return static_cast<std::size_t>(turn);
    for (std::size_t i = row.turns.size(); i > 0; --i)
        if (row.turns[i - 1].is_answer()) return i - 1;
    return row.turns.size() - 1;
}

std::string prompt_html(const Row& row, std::size_t turn) {
    if (turn == 0) return {};
    return fmt::format("<pre>{}</pre>", html_beginning(row.turns[turn - 1].text, kCharactersShown));
}

std::string answer_html(const Row& row, std::size_t turn) {
    return fmt::format("<pre class=\"answer\">{}</pre>",
                       html_beginning(row.turns[turn].text, kCharactersShown));
}

std::string place_html(const Row& row) {
    return fmt::format("<h4>{}, {}</h4>", html_text(row.place),
                       row.part == Part::kTrain ? "to train on" : "held out");
}

std::string whole_row(const Row& row, std::int64_t turn) {
    if (row.turns.empty()) return "<div>" + place_html(row) + "</div>";
    const std::size_t shown = shown_turn(row, turn);
    return "<div>" + place_html(row) + prompt_html(row, shown) + answer_html(row, shown) + "</div>";
}

/// A row beside the one that it is like, else its prompt beside its answer.
std::string side_by_side(const Report& report, std::size_t number, const Finding& finding) {
    const Row& row = report.rows[number];
    std::string figures;
    for (const auto& [name, value] : finding.figures.items()) {
        const std::string text = value.is_number_float() ? fmt::format("{:.4g}", value.get<double>())
                                 : value.is_string()     ? value.get<std::string>()
                                                         : value.dump();
        figures += fmt::format("{}{}: {}", figures.empty() ? "" : ", ", name, text);
    }
    std::string out = "<div class=\"pair\">";
    if (!figures.empty()) out += "<p>" + html_text(figures) + "</p>";
    if (finding.other >= 0) {
        out += whole_row(row, finding.turn);
        out += whole_row(report.rows[static_cast<std::size_t>(finding.other)], -1);
    } else if (row.turns.empty()) {
        out += whole_row(row, -1);
    } else {
        const std::size_t turn = shown_turn(row, finding.turn);
        out += "<div>" + place_html(row) + prompt_html(row, turn) + "</div><div><h4>answer</h4>" +
               answer_html(row, turn) + "</div>";
    }
    return out + "</div>\n";
}

std::string worst_rows(const Report& report, const FindingName& kind) {
    std::vector<std::pair<std::size_t, const Finding*>> found;
    for (std::size_t row = 0; row < report.rows.size(); ++row)
        if (const Finding* finding = report.findings.find(row, kind.kind)) found.emplace_back(row, finding);
    if (found.empty()) return {};
    std::stable_sort(found.begin(), found.end(),
                     [](const auto& a, const auto& b) { return a.second->weight > b.second->weight; });
    std::string out = fmt::format("<section><h2 id=\"{0}\">{0}</h2>\n<p>{1} rows {2}", kind.name,
                                  found.size(), html_text(kind.meaning));
    if (found.size() > kRowsShown) out += fmt::format("; {} of them", kRowsShown);
    out += ":</p>\n";
    for (std::size_t i = 0; i < std::min(kRowsShown, found.size()); ++i)
        out += side_by_side(report, found[i].first, *found[i].second);
    return out + "</section>\n";
}

std::string rejected_section(const Report& report) {
    if (report.rejected.empty()) return {};
    std::string out = "<h2 id=\"rejected\">Rows that cannot be used</h2>\n<div class=\"wide\"><table>\n";
    for (std::size_t i = 0; i < std::min(kListed, report.rejected.size()); ++i)
        out += fmt::format("<tr><td class=\"t\">{}</td><td class=\"t\">{}</td></tr>\n",
                           html_text(report.rejected[i].place), html_text(report.rejected[i].reason));
    out += "</table></div>\n";
    if (report.rejected.size() > kListed)
        out += fmt::format("<p>and {} more</p>\n", report.rejected.size() - kListed);
    return out;
}

}  // namespace

std::string html_page(const Report& report, const std::string& title) {
    std::string out(kHead);
    out += fmt::format("<title>{0}</title></head>\n<body><h1>{0}</h1>\n", html_text(title));
    out += overview(report) + lengths_section(report) + scores_section(report) + shares_section(report);
    for (const FindingName& kind : report.kinds()) out += worst_rows(report, kind);
    return out + rejected_section(report) + "</body></html>\n";
}

}  // namespace qlora::data_report
