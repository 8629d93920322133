#include "qlora/data_report/answer_scores.h"

namespace qlora::data_report {

ScoreSums find_unprompted_answers(std::span<const Row> rows, const Scoring& scoring, Findings& findings) {
    ScoreSums out{.scoring = scoring};
    for (std::size_t i = 0; i < rows.size(); ++i) {
        out.rows += rows[i].scores.empty() ? 0 : 1;
        for (const AnswerScore& score : rows[i].scores) {
            ++out.answers;
            out.tokens += score.tokens;
            out.with_prompt += score.with_prompt;
            out.without_prompt += score.without_prompt;
            if (score.with_prompt <= score.without_prompt) continue;
            ++out.likelier_without;
            findings.add(i, {.kind = FindingKind::kUnpromptedAnswer,
                             .weight = score.difference(),
                             .turn = score.turn,
                             .figures = figures_of(score)});
        }
    }
    return out;
}

Json figures_of(const AnswerScore& score) {
    return {{"tokens", score.tokens},
            {"loss_with_prompt", score.loss_with()},
            {"loss_without_prompt", score.loss_without()},
            {"sum_with_prompt", score.with_prompt},
            {"sum_without_prompt", score.without_prompt}};
}

}  // namespace qlora::data_report
