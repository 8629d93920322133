#include "qlora/data_report/report.h"

namespace qlora::data_report {
namespace {

std::string one_line(const Json& json) {
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json finding_json(const Report& report, const Row& row, const Finding& finding) {
    Json out = {{"name", name_of(finding.kind)}};
    if (finding.turn >= 0 && row.turns.size() > 2) out["turn"] = finding.turn;
    if (finding.other >= 0) {
        const Row& other = report.rows[static_cast<std::size_t>(finding.other)];
        out["other"] = other.place;
        if (other.part != row.part) out["other_part"] = "train";
    }
    out.update(finding.figures);
    return out;
}

Json score_json(const Row& row, const AnswerScore& score) {
    Json out = figures_of(score);
    if (row.turns.size() > 2) out["turn"] = score.turn;
    return out;
}

}  // namespace

std::string row_line(const Report& report, std::size_t number) {
    const Row& row = report.rows[number];
    Json out = {{"part", row.part == Part::kTrain ? "train" : "eval"},
                {"row", row.number},
                {"place", row.place},
                {"tokens", row.tokens},
                {"supervised_tokens", row.trained_within(row.tokens)},
                {"findings", Json::array()}};
    for (const Finding& finding : report.findings.of(number))
        out["findings"].push_back(finding_json(report, row, finding));
    for (const AnswerScore& score : row.scores) out["scores"].push_back(score_json(row, score));
    return one_line(out);
}

std::string rejected_line(const data::RejectedRow& row) {
    return one_line({{"place", row.place}, {"rejected", row.reason}});
}

}  // namespace qlora::data_report
