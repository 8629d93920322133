#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "qlora/data_report/finding.h"

namespace qlora::data_report {

/// Equal prompts with different answers, and what they cost: whatever a model learns, its mean loss over the
/// training rows stays above the entropy of the answers given their prompts.
struct EqualPrompts {
    std::int64_t prompts = 0;  ///< prompts that have different answers
    std::int64_t answers = 0;  ///< trained answers to these
    double nats = 0;           ///< the floor under the summed loss
    std::int64_t tokens = 0;   ///< all trained tokens of the training rows
    std::int64_t rows = 0;     ///< all training rows

    double nats_per_token() const { return tokens > 0 ? nats / static_cast<double>(tokens) : 0; }
    double nats_per_row() const { return rows > 0 ? nats / static_cast<double>(rows) : 0; }
};

/// Of the training rows. A prompt is all that stands before a trained answer, the setting included, and
/// an answer before which nothing stands has none; answers are compared byte by byte.
EqualPrompts find_equal_prompts(std::span<const Row> rows, Findings& findings);

/// For each turn 64 bits that stand for all that is before it.
std::vector<std::uint64_t> prompt_keys(const Row& row);

}  // namespace qlora::data_report
