#include "qlora/data_report/report.h"

#include <algorithm>
#include <utility>

#include "copied_answers.h"
#include "duplicates.h"
#include "leaks.h"
#include "poor_answers.h"

namespace qlora::data_report {

std::int64_t Report::count(Part part) const {
    return std::count_if(rows.begin(), rows.end(), [&](const Row& row) { return row.part == part; });
}

std::vector<FindingName> Report::kinds() const {
    std::vector<FindingName> out = finding_names();
    if (!scores)
        std::erase_if(out, [](const FindingName& one) { return one.kind == FindingKind::kUnpromptedAnswer; });
    return out;
}

Report look_at(std::vector<Row> rows, const ReportOptions& options) {
    Report out(std::move(rows));
    out.max_length = options.max_length;
    out.lengths = find_lengths(out.rows, options.max_length, out.findings);
    out.equal_prompts = find_equal_prompts(out.rows, out.findings);
    find_duplicates(out.rows, options.threads, out.findings);
    find_leaks(out.rows, out.findings);
    find_poor_answers(out.rows, out.findings);
    out.dominating = find_dominating_answers(out.rows, out.findings);
    find_copied_answers(out.rows, options.threads, out.findings);
    out.scripts = find_other_scripts(out.rows, out.findings);
    if (options.scoring) out.scores = find_unprompted_answers(out.rows, *options.scoring, out.findings);
    return out;
}

}  // namespace qlora::data_report
