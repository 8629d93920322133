#include "qlora/eval/evaluator.h"

#include <ATen/core/grad_mode.h>
#include <numeric>

#include "qlora/eval/token_batch.h"
#include "qlora/ops/cross_entropy.h"

namespace qlora::eval {
namespace {

/// The tokens that are scored: the supervised ones, or every one but each row's first.
struct ScoredRows {
    std::vector<std::int64_t> rows, targets;
};

ScoredRows all_rows(const data::Batch& batch) {
    ScoredRows out;
    for (std::size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
        for (std::int64_t t = batch.offsets[s]; t + 1 < batch.offsets[s + 1]; ++t) {
            out.rows.push_back(t);
            out.targets.push_back(batch.ids[static_cast<std::size_t>(t + 1)]);
        }
    }
    return out;
}

void add_supervised(const data::Batch& batch, const ScoredRows& scored, const ops::TokenScores& scores,
                    EvalSums& sums) {
    const float* logprobs = scores.logprobs.const_data_ptr<float>();
    const bool* correct = scores.correct.const_data_ptr<bool>();
    std::size_t at = 0;
    for (const std::int64_t row : batch.loss_rows) {
        while (scored.rows[at] != row) ++at;
        sums.loss -= static_cast<double>(logprobs[at]);
        sums.correct_tokens += correct[at] ? 1 : 0;
    }
    sums.supervised_tokens += batch.supervised_tokens();
}

}  // namespace

EvalSums evaluate(const models::CausalLM& model, std::span<const data::Example> examples,
                  const EvalOptions& options) {
    const at::AutoGradMode no_gradients(false);
    const nn::ForwardContext context;
    EvalSums sums;
    std::size_t next = 0;
    while (next < examples.size() && !(options.should_stop && options.should_stop())) {
        std::vector<const data::Example*> group;
        std::int64_t tokens = 0;
        while (next < examples.size() &&
               (group.empty() || tokens + examples[next].tokens() <= options.tokens_per_batch)) {
            tokens += examples[next].tokens();
            group.push_back(&examples[next++]);
        }
        const data::Batch batch = data::collate(group);
        ScoredRows scored{.rows = batch.loss_rows, .targets = batch.targets};
        if (options.per_row && !options.supervised_only) scored = all_rows(batch);
        const models::TokenBatch there = token_batch(batch, scored.rows, scored.targets, model.device());
        const at::Tensor hidden = model.forward(there, context, there.rows);
        const ops::TokenScores scores = model.score(hidden, there.targets);
        add_supervised(batch, scored, scores, sums);
        if (options.per_row) {
            std::span<const float> rest(scores.logprobs.const_data_ptr<float>(), scored.rows.size());
            for (const data::Example* example : group) {
                const auto count = static_cast<std::size_t>(
                    options.supervised_only ? example->supervised_tokens() : example->tokens() - 1);
                options.per_row(*example, rest.first(count));
                rest = rest.subspan(count);
            }
        }
        sums.rows += static_cast<std::int64_t>(group.size());
        if (options.progress) options.progress(sums.rows);
    }
    return sums;
}

}  // namespace qlora::eval
