#include "eval_report.h"

#include <cmath>

#include "qlora/core/error.h"
#include "qlora/eval/exact_match.h"

namespace qlora::cli {

std::string per_token_line(const data::Example& example, std::span<const float> logprobs) {
    Json values = Json::array({nullptr});
    for (const float value : logprobs) values.push_back(value);
    Json supervised = Json::array();
    for (const std::uint8_t flag : example.supervised) supervised.push_back(flag != 0);
    return Json{{"row", example.row}, {"ids", example.ids}, {"supervised", supervised}, {"logprobs", values}}
               .dump() +
           "\n";
}

Json summary_of(const eval::EvalSums& sums, std::int64_t dropped) {
    if (!std::isfinite(sums.mean_loss()))
        throw NonFiniteError("the loss is not finite: model or adapter are damaged");
    return {{"loss", sums.mean_loss()},
            {"perplexity", std::exp(sums.mean_loss())},
            {"token_accuracy", sums.token_accuracy()},
            {"rows", sums.rows},
            {"dropped", dropped},
            {"supervised_tokens", sums.supervised_tokens}};
}

void GenerationReport::add(const data::Example& example, const std::string& generated) {
    const bool match = eval::exact_match(generated, example.expected);
    all_.add(match);
    if (!example.task.empty()) by_task_[example.task].add(match);
    lines_ += Json{{"row", example.row},
                   {"prompt", example.prompt},
                   {"generated", generated},
                   {"expected", example.expected},
                   {"match", match}}
                  .dump(-1, ' ', false, Json::error_handler_t::replace) +
              "\n";
}

void GenerationReport::add_to(Json& summary) const {
    summary["exact_match"] = all_.rows == 0 ? Json(nullptr) : Json(all_.share());
    if (by_task_.empty()) return;
    Json& by_task = summary["exact_match_by_task"] = Json::object();
    for (const auto& [task, matches] : by_task_) by_task[task] = matches.share();
}

}  // namespace qlora::cli
