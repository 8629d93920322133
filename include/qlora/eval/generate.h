#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "qlora/models/causal_lm.h"
#include "qlora/tokenizer/tokenizer.h"

namespace qlora::eval {

struct GenerateOptions {
    std::int64_t max_new_tokens = 256;
    std::vector<tokenizer::TokenId> stop_ids;  ///< generation ends at any of these; they are not returned
    std::int64_t batch_rows = 16;              ///< prompts that run together, each with a cache of its own
    std::function<bool()> should_stop;
    std::function<void(std::int64_t prompts)> progress;
};

/// Greedy continuation of each prompt with a KV cache. Prompts run in groups, laid end to end. An answer ends
/// where the model takes no more positions (models::position_limit).
std::vector<std::vector<tokenizer::TokenId>> generate(
    const models::CausalLM& model, std::span<const std::vector<tokenizer::TokenId>> prompts,
    const GenerateOptions& options);

}  // namespace qlora::eval
