#pragma once

#include <cstdint>
#include <span>

#include "qlora/data_report/finding.h"

namespace qlora::data_report {

/// From this Jaccard similarity of their character 5-grams on, two rows count as nearly the same.
inline constexpr double kNearlyTheSame = 0.8;

/// Exact duplicates (the same roles and texts, settings left out) and near ones of earlier rows, within each
/// part; and held-out rows that are, exactly or nearly, training rows.
void find_duplicates(std::span<const Row> rows, std::int64_t threads, Findings& findings);

}  // namespace qlora::data_report
