#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "qlora/data/batch.h"
#include "qlora/data/rendered_row.h"
#include "qlora/tokenizer/tokenizer.h"

namespace qlora::data {

/// An answer of a row, scored twice over the same tokens: behind all that the row has before it, and behind
/// its opening alone. The opening, what the template writes to begin an answer, is left because a model that
/// is not told to answer would be judged by how it begins a text; a system prompt is not left, since it tells
/// the form of the answers to a model that does not need their prompts then.
struct ScoredAnswer {
    std::size_t message = 0;  ///< as AnswerSpan::message
    /// Its tokens, [begin, end) of the row's, in pieces where the template marks several.
    std::vector<std::pair<std::int64_t, std::int64_t>> pieces;
    /// What stands before it without its prompt: BOS if the row begins with it, and the opening; where that
    /// is nothing, BOS or else EOS, which come before texts. Empty where the tokenizer has neither: then
    /// nothing predicts its first token, which is not scored on either side.
    std::vector<tokenizer::TokenId> alone;

    std::int64_t scored_tokens() const;
};

/// The answers of a row that have a loss and a prompt, and the row's tokens up to the end of the last of
/// them. An answer without a prompt has none that could be left out.
struct ScoredRow {
    std::vector<tokenizer::TokenId> ids;
    std::vector<ScoredAnswer> answers;

    bool is_empty() const { return answers.empty(); }
    /// The row, in which the scored tokens of its answers are supervised, in order.
    Example with_prompts() const;
    /// An answer behind `alone`, with the same tokens supervised.
    Example without_prompt(const ScoredAnswer& answer) const;
};

/// Of the first `max_length` tokens.
ScoredRow scored_row(const EncodedRow& row, const tokenizer::SpecialTokens& special, std::int64_t max_length);

}  // namespace qlora::data
