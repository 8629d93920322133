#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "qlora/data_report/finding.h"

namespace qlora::data_report {

/// Hashes of the runs of 13 words of a text, in order. A word is a run of letters, marks and digits; of
/// scripts that are written without blanks (Han, kana, Thai, ...) each character is one.
std::vector<std::uint64_t> word_grams(std::string_view text);

/// Held-out rows whose prompt is trained on with another answer, and those whose answers (of running text,
/// the text) share 13 words in a row with a training row's. Rows that are trained on as a whole are found by
/// find_duplicates, and are passed over where it ran before.
void find_leaks(std::span<const Row> rows, Findings& findings);

}  // namespace qlora::data_report
