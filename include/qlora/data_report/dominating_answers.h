#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "qlora/data_report/finding.h"

namespace qlora::data_report {

/// An answer that many training rows share.
struct DominatingAnswer {
    std::string text;
    std::int64_t answers = 0;
    double share = 0;  ///< of all trained answers of the training rows
};

/// Answers, compared folded, that at least 10 and at least 5 % of the trained answers of the training rows
/// are; the most frequent first. Labels of a classification are found too: that they are few is for people to
/// judge.
std::vector<DominatingAnswer> find_dominating_answers(std::span<const Row> rows, Findings& findings);

}  // namespace qlora::data_report
