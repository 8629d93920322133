#include "row_positions.h"

#include <algorithm>

#include "qlora/core/error.h"
#include "qlora/core/log.h"

namespace qlora::cli {
namespace {

std::string behind(std::int64_t virtual_tokens) {
    return virtual_tokens == 0 ? "" : fmt::format(" behind {} virtual tokens", virtual_tokens);
}

}  // namespace

std::string position_warning(const models::DecoderSpec& model, const data::Dataset& train,
                             const data::Dataset* held_out, std::int64_t virtual_tokens) {
    const std::int64_t longest =
        std::max(train.statistics.longest, held_out == nullptr ? 0 : held_out->statistics.longest);
    const std::int64_t positions = models::trained_positions(model);
    if (longest + virtual_tokens <= positions) return {};
    std::string out = fmt::format(
        "the longest row has {} tokens{}, the model {} positions (max_position_embeddings in its "
        "config.json): tokens beyond them stand where it was never trained; data.max_length: {} keeps rows "
        "within",
        longest, behind(virtual_tokens), positions, positions - virtual_tokens);
    for (const std::size_t place : model.used_ropes()) {
        const models::RopeConfig& rope = model.ropes.at(place).frequencies;
        if (rope.type != models::RopeType::kLinear) continue;
        return out +
               fmt::format(" (unless the file leaves out the linear scaling of its rope, {:g} times as many)",
                           rope.factor);
    }
    return out;
}

std::string longrope_note(const models::DecoderSpec& model, const std::vector<const data::Dataset*>& data,
                          std::int64_t virtual_tokens) {
    const models::LongropeEdges edges(model);
    std::int64_t rows = 0, long_rows = 0;
    for (const data::Dataset* dataset : data) {
        for (const data::Example& example : dataset->examples) {
            ++rows;
            if (edges.passed(example.tokens() + virtual_tokens) > 0) ++long_rows;
        }
    }
    if (long_rows == 0) return {};
    return fmt::format(
        "longrope turns {} of {} rows, those longer than original_max_position_embeddings, by its long "
        "factors{} (transformers lets the longest row of a batch decide for all of the batch)",
        long_rows, rows, long_rows == rows ? "" : " and the others by its short ones");
}

void require_positions(const models::DecoderSpec& model, const std::vector<const data::Dataset*>& data,
                       const std::string& setting, std::int64_t virtual_tokens) {
    const std::optional<models::PositionLimit> limit = models::position_limit(model);
    if (!limit) return;
    const std::int64_t most = limit->tokens - virtual_tokens;
    std::int64_t too_long = 0;
    const data::Example* longest = nullptr;
    for (const data::Dataset* dataset : data) {
        for (const data::Example& example : dataset->examples) {
            if (example.tokens() <= most) continue;
            ++too_long;
            if (longest == nullptr || example.tokens() > longest->tokens()) longest = &example;
        }
    }
    if (longest == nullptr) return;
    throw DataError(fmt::format(
        "{}: the row has {} tokens{}, but this model takes rows of at most {}{}: {}; {} {} keeps rows within",
        longest->place, longest->tokens(),
        too_long == 1 ? "" : fmt::format(", the most of {} rows that are too long", too_long), most,
        behind(virtual_tokens), limit->reason, setting, most));
}

void require_answer_positions(const models::DecoderSpec& model, const std::vector<data::Example>& rows,
                              std::int64_t max_new_tokens, std::int64_t virtual_tokens) {
    const std::optional<models::PositionLimit> limit = models::position_limit(model);
    if (!limit || rows.empty()) return;
    const data::Example& longest = *std::max_element(
        rows.begin(), rows.end(),
        [](const data::Example& a, const data::Example& b) { return a.answer_begin < b.answer_begin; });
    // The last token of an answer is never an input.
    const std::int64_t most = limit->tokens - virtual_tokens, room = most - longest.answer_begin + 1;
    if (max_new_tokens <= room) return;
    throw DataError(fmt::format(
        "{}: the prompt has {} tokens and its answer up to {}, but this model takes at most {} together{}: "
        "{}; --max-new-tokens {} fits all prompts",
        longest.place, longest.answer_begin, max_new_tokens, most, behind(virtual_tokens), limit->reason,
        room));
}

}  // namespace qlora::cli
