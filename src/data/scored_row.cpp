#include "qlora/data/scored_row.h"

#include <algorithm>

namespace qlora::data {
namespace {

using tokenizer::TokenId;

std::vector<TokenId> context_without_prompt(const EncodedRow& row, const AnswerSpan& span,
                                            const tokenizer::SpecialTokens& special) {
    const auto at = [&](std::size_t place) { return row.ids.begin() + static_cast<std::ptrdiff_t>(place); };
    std::vector<TokenId> out(at(span.opening), at(span.begin));
    const bool begins_row = special.bos && row.ids.front() == *special.bos;
    const bool begins_opening = special.bos && !out.empty() && out.front() == *special.bos;
    if (begins_row && !begins_opening) out.insert(out.begin(), *special.bos);
    if (!out.empty()) return out;
    if (special.bos) return {*special.bos};
    if (special.eos) return {*special.eos};
    return {};
}

/// Marks the tokens [begin, end) of `example` but for the first `skipped`.
void supervise(std::int64_t begin, std::int64_t end, std::int64_t skipped, Example& example) {
    for (std::int64_t i = begin + skipped; i < end; ++i) example.supervised[static_cast<std::size_t>(i)] = 1;
}

/// Of the first piece, which no token predicts when nothing stands before it.
std::int64_t unscored(const ScoredAnswer& answer) {
    return answer.alone.empty() ? 1 : 0;
}

}  // namespace

std::int64_t ScoredAnswer::scored_tokens() const {
    std::int64_t tokens = -unscored(*this);
    for (const auto& [begin, end] : pieces) tokens += end - begin;
    return tokens;
}

Example ScoredRow::with_prompts() const {
    Example out{.ids = ids, .supervised = std::vector<std::uint8_t>(ids.size(), 0)};
    for (const ScoredAnswer& answer : answers)
        for (const auto& piece : answer.pieces)
            supervise(piece.first, piece.second, piece == answer.pieces.front() ? unscored(answer) : 0, out);
    return out;
}

Example ScoredRow::without_prompt(const ScoredAnswer& answer) const {
    const std::int64_t begin = answer.pieces.front().first;
    const auto at = [&](std::int64_t place) { return ids.begin() + static_cast<std::ptrdiff_t>(place); };
    Example out{.ids = answer.alone};
    out.ids.insert(out.ids.end(), at(begin), at(answer.pieces.back().second));
    out.supervised.assign(out.ids.size(), 0);
    const std::int64_t moved = static_cast<std::int64_t>(answer.alone.size()) - begin;
    for (const auto& piece : answer.pieces)
        supervise(piece.first + moved, piece.second + moved,
                  piece == answer.pieces.front() ? unscored(answer) : 0, out);
    return out;
}

ScoredRow scored_row(const EncodedRow& row, const tokenizer::SpecialTokens& special,
                     std::int64_t max_length) {
    ScoredRow out;
    const std::int64_t length = std::min(max_length, static_cast<std::int64_t>(row.ids.size()));
    for (const AnswerSpan& span : row.answers) {
        const auto begin = static_cast<std::int64_t>(span.begin);
        const std::int64_t end = std::min(length, static_cast<std::int64_t>(span.end));
        if (!span.supervised || !span.prompted || begin >= end) continue;
        if (out.answers.empty() || out.answers.back().message != span.message)
            out.answers.push_back(
                {.message = span.message, .pieces = {}, .alone = context_without_prompt(row, span, special)});
        out.answers.back().pieces.emplace_back(begin, end);
    }
    std::erase_if(out.answers, [](const ScoredAnswer& answer) { return answer.scored_tokens() <= 0; });
    if (out.is_empty()) return out;
    const std::int64_t last = out.answers.back().pieces.back().second;
    out.ids.assign(row.ids.begin(), row.ids.begin() + static_cast<std::ptrdiff_t>(last));
    return out;
}

}  // namespace qlora::data
