#pragma once

#include <cstdint>
#include <span>

#include "qlora/data_report/finding.h"

namespace qlora::data_report {

/// Trained answers of at least 40 characters of whose 5-grams at least 90 % stand in the turn before.
void find_copied_answers(std::span<const Row> rows, std::int64_t threads, Findings& findings);

}  // namespace qlora::data_report
