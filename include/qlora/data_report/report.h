#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "qlora/data_report/answer_scores.h"
#include "qlora/data_report/dominating_answers.h"
#include "qlora/data_report/equal_prompts.h"
#include "qlora/data_report/finding.h"
#include "qlora/data_report/lengths.h"
#include "qlora/data_report/row.h"
#include "qlora/data_report/scripts.h"

namespace qlora::data_report {

/// All that was found in training rows and held-out rows.
struct Report {
    explicit Report(std::vector<Row> all) : rows(std::move(all)), findings(rows.size()) {}

    std::vector<Row> rows;  ///< training rows first
    Findings findings;
    EqualPrompts equal_prompts;
    std::vector<DominatingAnswer> dominating;
    ScriptPairs scripts;
    Lengths lengths;
    std::int64_t max_length = 0;
    std::vector<data::RejectedRow> rejected;  ///< rows that cannot be used
    std::optional<ScoreSums> scores;          ///< where a model scored answers

    std::int64_t count(Part part) const;
    /// What was looked for, in the order of the report.
    std::vector<FindingName> kinds() const;
};

struct ReportOptions {
    std::int64_t max_length = 0;  ///< the configuration's
    std::int64_t threads = 1;
    /// Set where a model has scored answers (Row::scores).
    std::optional<Scoring> scoring = {};
};

/// The rows are looked at and stay as they are. The result does not depend on the number of threads.
Report look_at(std::vector<Row> rows, const ReportOptions& options);

/// One object with all figures, and rows counted by finding.
Json summary_json(const Report& report);
/// The same for people, in lines.
std::string summary_text(const Report& report);
/// One JSON object for a row: its part, number, place, tokens and findings with their figures; without the
/// line's end. Bytes of a path that are not UTF-8 become U+FFFD.
std::string row_line(const Report& report, std::size_t row);
std::string rejected_line(const data::RejectedRow& row);
/// A page that loads nothing and runs nothing: the figures, histograms, and of each finding the worst rows
/// side by side. `title` stands above it.
std::string html_page(const Report& report, const std::string& title);

}  // namespace qlora::data_report
