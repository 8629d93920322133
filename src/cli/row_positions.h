#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qlora/data/sft_dataset.h"
#include "qlora/models/decoder_spec.h"

// What the lengths of rows mean to a model's positions.
namespace qlora::cli {

/// A model, and the virtual tokens that an adapter puts before each row.
struct Positions {
    const models::DecoderSpec& model;
    std::int64_t before = 0;
};

/// One sentence where the longest row passes the positions that the model was trained on; else empty.
/// `held_out` may be null.
std::string position_warning(const Positions& positions, const data::Dataset& train,
                             const data::Dataset* held_out);

/// One sentence where longrope turns some of the rows by its long factors; else empty.
std::string longrope_note(const Positions& positions, const std::vector<const data::Dataset*>& data);

/// Throws DataError where rows have more tokens than the model takes (models::position_limit); `setting`
/// shortens rows ("data.max_length:", say).
void require_positions(const Positions& positions, const std::vector<const data::Dataset*>& data,
                       const std::string& setting);
/// The same for the answers that may be generated to the prompts of the rows.
void require_answer_positions(const Positions& positions, const std::vector<data::Example>& rows,
                              std::int64_t max_new_tokens);

}  // namespace qlora::cli
