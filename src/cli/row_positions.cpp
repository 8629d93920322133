#include "row_positions.h"

#include <algorithm>

#include "qlora/core/error.h"
#include "qlora/core/log.h"

namespace qlora::cli {
namespace {

/// " behind 20 virtual ones"; nothing without any.
std::string behind(const Positions& positions) {
    return positions.before == 0 ? "" : fmt::format(" behind {} virtual ones", positions.before);
}

}  // namespace

std::string position_warning(const Positions& positions, const data::Dataset& train,
                             const data::Dataset* held_out) {
    const std::int64_t longest =
        std::max(train.statistics.longest, held_out == nullptr ? 0 : held_out->statistics.longest);
    const std::int64_t trained = models::trained_positions(positions.model);
    if (longest + positions.before <= trained) return {};
    std::string out = fmt::format(
        "the longest row has {} tokens{}, the model {} positions (max_position_embeddings in its "
        "config.json): "
        "tokens beyond them stand where it was never trained; data.max_length: {} keeps rows within",
        longest, behind(positions), trained, trained - positions.before);
    for (const std::size_t place : positions.model.used_ropes()) {
        const models::RopeConfig& rope = positions.model.ropes.at(place).frequencies;
        if (rope.type != models::RopeType::kLinear) continue;
        return out +
               fmt::format(" (unless the file leaves out the linear scaling of its rope, {:g} times as many)",
                           rope.factor);
    }
    return out;
}

std::string longrope_note(const Positions& positions, const std::vector<const data::Dataset*>& data) {
    const models::LongropeEdges edges(positions.model);
    std::int64_t rows = 0, long_rows = 0;
    for (const data::Dataset* dataset : data) {
        for (const data::Example& example : dataset->examples) {
            ++rows;
            if (edges.passed(example.tokens() + positions.before) > 0) ++long_rows;
        }
    }
    if (long_rows == 0) return {};
    return fmt::format(
        "longrope turns {} of {} rows, those longer than original_max_position_embeddings, by its long "
        "factors{} (transformers lets the longest row of a batch decide for all of the batch)",
        long_rows, rows, long_rows == rows ? "" : " and the others by its short ones");
}

void require_positions(const Positions& positions, const std::vector<const data::Dataset*>& data,
                       const std::string& setting) {
    const std::optional<models::PositionLimit> limit = models::position_limit(positions.model);
    if (!limit) return;
    std::int64_t too_long = 0;
    const data::Example* longest = nullptr;
    for (const data::Dataset* dataset : data) {
        for (const data::Example& example : dataset->examples) {
            if (example.tokens() + positions.before <= limit->tokens) continue;
            ++too_long;
            if (longest == nullptr || example.tokens() > longest->tokens()) longest = &example;
        }
    }
    if (longest == nullptr) return;
    throw DataError(fmt::format(
        "{}: the row has {} tokens{}{}, but this model takes rows of at most {}: {}; {} {} keeps rows within",
        longest->place, longest->tokens(), behind(positions),
        too_long == 1 ? "" : fmt::format(", the most of {} rows that are too long", too_long), limit->tokens,
        limit->reason, setting, limit->tokens - positions.before));
}

void require_answer_positions(const Positions& positions, const std::vector<data::Example>& rows,
                              std::int64_t max_new_tokens) {
    const std::optional<models::PositionLimit> limit = models::position_limit(positions.model);
    if (!limit || rows.empty()) return;
    const data::Example& longest = *std::max_element(
        rows.begin(), rows.end(),
        [](const data::Example& a, const data::Example& b) { return a.answer_begin < b.answer_begin; });
    // The last token of an answer is never an input.
    const std::int64_t room = limit->tokens - positions.before - longest.answer_begin + 1;
    if (max_new_tokens <= room) return;
    throw DataError(
        fmt::format("{}: the prompt has {} tokens{} and its answer up to {}, but this model takes at most {} "
                    "together: {}; "
                    "--max-new-tokens {} fits all prompts",
                    longest.place, longest.answer_begin, behind(positions), max_new_tokens, limit->tokens,
                    limit->reason, room));
}

}  // namespace qlora::cli
