#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "qlora/data_report/finding.h"

namespace qlora::data_report {

/// What `data.max_length` would cost among the training rows.
struct LengthCost {
    std::int64_t max_length = 0;
    std::int64_t rows = 0;             ///< that are longer
    std::int64_t dropped = 0;          ///< tokens of these, lost with `overlong: drop`
    std::int64_t dropped_trained = 0;  ///< of these, tokens with a loss
    std::int64_t cut = 0;              ///< tokens beyond max_length, lost with `truncate`
    std::int64_t cut_trained = 0;
};

struct Quantiles {
    std::int64_t least = 0, half = 0, nine_tenths = 0, ninety_nine = 0, most = 0;
};

struct Lengths {
    std::int64_t rows = 0, tokens = 0, trained = 0;  ///< of the training rows
    Quantiles of_rows;                               ///< tokens of a row
    Quantiles of_answers;                            ///< trained tokens of a row
    /// For 512 and its doubles up to the longest row, and for the configuration's; rising.
    std::vector<LengthCost> costs;
};

/// Names the rows of all parts that are longer than `max_length`.
Lengths find_lengths(std::span<const Row> rows, std::int64_t max_length, Findings& findings);

}  // namespace qlora::data_report
