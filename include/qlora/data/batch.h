#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "qlora/tokenizer/tokenizer.h"

namespace qlora::data {

/// One training row as token ids. `supervised[i]` says that token i is predicted with a loss (the answer and
/// its end-of-turn token); token 0 is never supervised.
struct Example {
    std::vector<tokenizer::TokenId> ids;
    std::vector<std::uint8_t> supervised;
    std::int64_t row = 0;  ///< 0-based place in the data, files taken in order
    std::string place;     ///< "file:line", for messages
    bool truncated = false;

    // For generation: the last answer starts at token `answer_begin`; the prompt is ids[0, answer_begin).
    std::int64_t answer_begin = 0;
    std::string prompt;    ///< readable text of the prompt (the last user turn, or the prompt field)
    std::string expected;  ///< text of the last answer
    std::string task;      ///< the row's `task` field, empty without one

    std::int64_t tokens() const { return static_cast<std::int64_t>(ids.size()); }
    std::int64_t supervised_tokens() const;
};

/// A micro-batch: sequences laid end to end, never padded. T = all tokens, S = sequences, R = rows with a
/// loss.
struct Batch {
    std::vector<std::int64_t> ids;        ///< [T]
    std::vector<std::int64_t> positions;  ///< [T], from 0 in each sequence
    std::vector<std::int64_t> offsets;    ///< [S + 1], cumulative lengths (cu_seqlens)
    std::vector<std::int64_t> loss_rows;  ///< [R], rising: places whose *next* token is supervised
    std::vector<std::int64_t> targets;    ///< [R], the ids predicted there

    std::int64_t tokens() const { return static_cast<std::int64_t>(ids.size()); }
    std::int64_t sequences() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
    std::int64_t supervised_tokens() const { return static_cast<std::int64_t>(targets.size()); }
};

Batch collate(std::span<const Example* const> examples);

}  // namespace qlora::data
