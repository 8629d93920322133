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

Json scores_json(const ScoreSums& sums) {
    Json out = {{"rows", sums.rows},
                {"answers", sums.answers},
                {"tokens", sums.tokens},
                {"loss_with_prompt", sums.loss_with()},
                {"loss_without_prompt", sums.loss_without()},
                {"likelier_without_prompt", sums.likelier_without},
                {"rows_with_prompt", sums.scoring.rows},
                {"rows_without_prompt", sums.scoring.without_prompt},
                {"rows_too_long", sums.scoring.too_long},
                {"stopped", sums.scoring.stopped}};
    if (sums.scoring.seed) out["seed"] = *sums.scoring.seed;
    return out;
}

std::string scores_text(const ScoreSums& sums) {
    const Scoring& scoring = sums.scoring;
    std::string out = fmt::format("a model scored {} of {} rows", sums.rows, scoring.rows);
    if (scoring.seed) out += fmt::format(", chosen by training.seed {}", *scoring.seed);
    if (scoring.stopped) out += ", until a signal stopped it";
    out += fmt::format(
        ":\n  their {} answers have a loss of {:.4f} nats a token with their prompts, {:.4f} without; "
        "{} ({:.1f} %) are likelier without\n",
        sums.answers, sums.loss_with(), sums.loss_without(), sums.likelier_without,
        100 * sums.share_without());
    if (scoring.without_prompt > 0)
        out += fmt::format("  {} more have no prompt that could be left out\n", scoring.without_prompt);
    if (scoring.too_long > 0)
        out +=
            fmt::format("  {} more would be dropped or have no answer within max_length\n", scoring.too_long);
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
    for (const FindingName& kind : report.kinds())
        out["findings"][std::string(kind.name)] = report.findings.count(kind.kind);
    out["entropy_floor"] = {{"prompts", equal.prompts},
                            {"answers", equal.answers},
                            {"nats_per_token", equal.nats_per_token()},
                            {"nats_per_row", equal.nats_per_row()}};
    if (report.scores) out["scores"] = scores_json(*report.scores);
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
    for (const FindingName& kind : report.kinds())
        out += fmt::format("  {:>8}  {:<19} {}\n", report.findings.count(kind.kind), kind.name, kind.meaning);
    if (equal.prompts > 0)
        out += fmt::format(
            "{} prompts have {} answers that differ: the training loss cannot fall below {:.4f} nats a token "
            "({:.3f} a row)\n",
            equal.prompts, equal.answers, equal.nats_per_token(), equal.nats_per_row());
    if (report.scores) out += scores_text(*report.scores);
    for (std::size_t i = 0; i < report.dominating.size() && i < kAnswersShown; ++i)
        out += fmt::format("{:.1f} % of the answers are {}\n", 100 * report.dominating[i].share,
                           beginning_of(report.dominating[i].text));
    if (!report.scripts.empty()) out += "scripts of prompt and answer:\n";
    for (const auto& [pair, answers] : report.scripts)
        out += fmt::format("  {:>8}  {} -> {}\n", answers, pair.first, pair.second);
    return out;
}

}  // namespace qlora::data_report
