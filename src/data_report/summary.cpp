#include <spdlog/fmt/fmt.h>

#include "qlora/data_report/report.h"

namespace qlora::data_report {
namespace {

constexpr std::size_t kAnswersShown = 5;
constexpr std::size_t kAnswerBytes = 60;

Json quantiles_json(const Quantiles& values) {
    return {{"min", values.least},
            {"p50", values.half},
            {"p90", values.nine_tenths},
            {"p99", values.ninety_nine},
            {"max", values.most}};
}

std::string quantiles_text(const Quantiles& values) {
    return fmt::format("{} to {}, half of the rows at most {}, 90 % at most {}, 99 % at most {}",
                       values.least, values.most, values.half, values.nine_tenths, values.ninety_nine);
}

std::string costs_text(const Lengths& lengths) {
    std::string out = fmt::format("  {:>10} {:>9} {:>26} {:>26}\n", "max_length", "longer",
                                  "drop loses (with a loss)", "truncate loses (w. a loss)");
    for (const LengthCost& cost : lengths.costs)
        out += fmt::format("  {:>10} {:>9} {:>26} {:>26}\n", cost.max_length, cost.rows,
                           fmt::format("{} ({})", cost.dropped, cost.dropped_trained),
                           fmt::format("{} ({})", cost.cut, cost.cut_trained));
    return out;
}

/// The beginning of a text on one line, quoted as JSON does.
std::string beginning_of(const std::string& text) {
    const bool is_long = text.size() > kAnswerBytes;
    return Json(text.substr(0, kAnswerBytes)).dump(-1, ' ', false, Json::error_handler_t::ignore) +
           (is_long ? "..." : "");
}

}  // namespace

Json summary_json(const Report& report) {
    const EqualPrompts& equal = report.equal_prompts;
    const Lengths& lengths = report.lengths;
    Json out = {{"train_rows", report.count(Part::kTrain)},
                {"eval_rows", report.count(Part::kHeldOut)},
                {"rejected", report.rejected.size()},
                {"tokens", lengths.tokens},
                {"supervised_tokens", lengths.trained},
                {"tokens_per_row", quantiles_json(lengths.of_rows)},
                {"supervised_tokens_per_row", quantiles_json(lengths.of_answers)}};
    for (const FindingName& kind : finding_names())
        out["findings"][std::string(kind.name)] = report.findings.count(kind.kind);
    out["entropy_floor"] = {{"prompts", equal.prompts},
                            {"answers", equal.answers},
                            {"nats_per_token", equal.nats_per_token()},
                            {"nats_per_row", equal.nats_per_row()}};
    out["max_length"] = Json::array();
    for (const LengthCost& cost : lengths.costs)
        out["max_length"].push_back({{"max_length", cost.max_length},
                                     {"longer_rows", cost.rows},
                                     {"drop_tokens", cost.dropped},
                                     {"drop_supervised_tokens", cost.dropped_trained},
                                     {"truncate_tokens", cost.cut},
                                     {"truncate_supervised_tokens", cost.cut_trained}});
    out["scripts"] = Json::array();
    for (const auto& [pair, answers] : report.scripts)
        out["scripts"].push_back({{"prompt", pair.first}, {"answer", pair.second}, {"answers", answers}});
    out["dominating_answers"] = Json::array();
    for (const DominatingAnswer& answer : report.dominating)
        out["dominating_answers"].push_back(
            {{"text", answer.text}, {"answers", answer.answers}, {"share", answer.share}});
    return out;
}

std::string summary_text(const Report& report) {
    const EqualPrompts& equal = report.equal_prompts;
    const Lengths& lengths = report.lengths;
    std::string out = fmt::format("rows: {} to train on, {} held out", report.count(Part::kTrain),
                                  report.count(Part::kHeldOut));
    if (!report.rejected.empty()) out += fmt::format(", {} that cannot be used", report.rejected.size());
    out += fmt::format("\ntokens to train on: {}, {} with a loss\n", lengths.tokens, lengths.trained);
    out += "  a row has " + quantiles_text(lengths.of_rows) + "\n";
    out += "  with a loss " + quantiles_text(lengths.of_answers) + "\n";
    out += "what max_length costs, in rows and tokens:\n" + costs_text(lengths);
    out += "rows that\n";
    for (const FindingName& kind : finding_names())
        out += fmt::format("  {:>8}  {:<19} {}\n", report.findings.count(kind.kind), kind.name, kind.meaning);
    if (equal.prompts > 0)
        out += fmt::format(
            "{} prompts have {} answers that differ: the training loss cannot fall below {:.4f} nats a token "
            "({:.3f} a row)\n",
            equal.prompts, equal.answers, equal.nats_per_token(), equal.nats_per_row());
    for (std::size_t i = 0; i < report.dominating.size() && i < kAnswersShown; ++i)
        out += fmt::format("{:.1f} % of the answers are {}\n", 100 * report.dominating[i].share,
                           beginning_of(report.dominating[i].text));
    if (!report.scripts.empty()) out += "scripts of prompt and answer:\n";
    for (const auto& [pair, answers] : report.scripts)
        out += fmt::format("  {:>8}  {} -> {}\n", answers, pair.first, pair.second);
    return out;
}

}  // namespace qlora::data_report
