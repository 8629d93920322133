#pragma once

#include <span>

#include "qlora/data_report/finding.h"

namespace qlora::data_report {

/// Trained answers that hold no letter, digit or symbol, that begin as refusals, or that hold a stock phrase
/// of assistants (answer_phrases.h).
void find_poor_answers(std::span<const Row> rows, Findings& findings);

}  // namespace qlora::data_report
