#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "qlora/data/batch.h"
#include "qlora/models/causal_lm.h"

namespace qlora::eval {

/// Sums over all supervised tokens, whatever the batching; the HF trainer averages batch means instead.
struct EvalSums {
    double loss = 0.0;
    std::int64_t supervised_tokens = 0;
    std::int64_t correct_tokens = 0;
    std::int64_t rows = 0;

    double mean_loss() const {
        return supervised_tokens > 0 ? loss / static_cast<double>(supervised_tokens) : 0.0;
    }
    double token_accuracy() const {
        return supervised_tokens > 0
                   ? static_cast<double>(correct_tokens) / static_cast<double>(supervised_tokens)
                   : 0.0;
    }
};

struct EvalOptions {
    /// Sequences are laid end to end up to this many tokens (one longer row still runs, alone).
    std::int64_t tokens_per_batch = 1024;
    /// Asked between batches; true ends the evaluation early and the sums are of what was done.
    std::function<bool()> should_stop;
    /// After each batch: rows done so far.
    std::function<void(std::int64_t rows)> progress;
    /// If set, gets log p(token | tokens before it) for every token of a row but its first: values[i] is of
    /// token i + 1.
    std::function<void(const data::Example&, std::span<const float> logprobs)> per_row;
    /// `per_row` gets those of the supervised tokens alone, in order, and no others are computed.
    bool supervised_only = false;
};

/// Held-out loss and token accuracy; logits are never kept, so memory does not grow with the data.
EvalSums evaluate(const models::CausalLM& model, std::span<const data::Example> examples,
                  const EvalOptions& options);

}  // namespace qlora::eval
