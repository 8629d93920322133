#pragma once

#include <random>
#include <vector>

#include "qlora/data/batch.h"
#include "qlora/eval/token_batch.h"

/// Rows of random tokens below 97, and batches of rows.
namespace qlora::models {

using TokenIds = std::vector<tokenizer::TokenId>;

inline TokenIds row_of(std::size_t count, unsigned seed) {
    std::mt19937 engine(seed);
    TokenIds out(count);
    for (auto& id : out) id = static_cast<tokenizer::TokenId>(engine() % 97);
    return out;
}

/// All tokens but the first are supervised, or none.
inline std::vector<data::Example> examples_of(const std::vector<TokenIds>& rows, bool supervised) {
    std::vector<data::Example> out;
    for (const TokenIds& ids : rows) {
        out.push_back({.ids = ids, .supervised = std::vector<std::uint8_t>(ids.size(), supervised ? 1 : 0)});
        out.back().supervised[0] = 0;
    }
    return out;
}

inline TokenBatch collated(const std::vector<data::Example>& examples) {
    std::vector<const data::Example*> pointers;
    for (const data::Example& example : examples) pointers.push_back(&example);
    return eval::token_batch(data::collate(pointers), at::kCPU);
}

}  // namespace qlora::models
