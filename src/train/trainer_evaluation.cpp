#include <cmath>

#include "qlora/core/log.h"
#include "qlora/eval/generate.h"
#include "qlora/train/stop_signal.h"
#include "qlora/train/trainer.h"

namespace qlora::train {
namespace {

constexpr std::int64_t kSampleTokens = 64;

}  // namespace

bool Trainer::evaluate() {
    if (input_.eval.empty()) return true;
    const auto total = static_cast<std::int64_t>(input_.eval.size());
    const eval::EvalSums sums = eval::evaluate(
        *input_.model, input_.eval,
        {.should_stop = StopSignal::is_received,
         .progress = [&](std::int64_t rows) { callback_.on_evaluation_progress(rows, total); }});
    if (sums.rows < total) return false;
    const double loss = sums.mean_loss();
    if (!std::isfinite(loss))
        spdlog::error("step {}: the held-out loss ({}) is not finite", state_.step, loss);
    state_.last_eval_loss = loss;
    if (!state_.first_eval_loss) state_.first_eval_loss = loss;
    // The untrained adapter of step 0 is not a result.
    const bool best = state_.step > 0 && loss < state_.best_eval_loss.value_or(HUGE_VAL);
    if (best) {
        state_.best_eval_loss = loss;
        state_.best_step = state_.step;
    }
    metrics_->append({{"step", state_.step},
                      {"eval_loss", std::isfinite(loss) ? Json(loss) : Json(nullptr)},
                      {"eval_token_accuracy", sums.token_accuracy()}});
    callback_.on_evaluation(state_.step, sums, best);
    show_samples();
    return true;
}

void Trainer::show_samples() {
    if (config_.sample_rows == 0 || input_.tokenizer == nullptr) return;
    std::vector<std::vector<tokenizer::TokenId>> prompts;
    std::vector<const data::Example*> rows;
    for (const data::Example& example : input_.eval) {
        if (static_cast<std::int64_t>(rows.size()) == config_.sample_rows) break;
        if (example.answer_begin == 0) continue;
        rows.push_back(&example);
        prompts.emplace_back(example.ids.begin(), example.ids.begin() + example.answer_begin);
    }
    const auto answers = eval::generate(*input_.model, prompts,
                                        {.max_new_tokens = kSampleTokens,
                                         .stop_ids = input_.stop_ids,
                                         .should_stop = StopSignal::is_received});
    for (std::size_t i = 0; i < rows.size(); ++i) {
        callback_.on_sample({rows[i]->prompt, input_.tokenizer->decode(answers[i], true), rows[i]->expected});
    }
}

}  // namespace qlora::train
