#include "qlora/data_report/lengths.h"

#include <algorithm>

namespace qlora::data_report {
namespace {

constexpr std::int64_t kShortestAsked = 512;

LengthCost cost_of(std::span<const Row> rows, std::int64_t max_length) {
    LengthCost out{.max_length = max_length};
    for (const Row& row : rows) {
        if (row.part != Part::kTrain || row.tokens <= max_length) continue;
        const std::int64_t trained = row.trained_within(row.tokens);
        ++out.rows;
        out.dropped += row.tokens;
        out.dropped_trained += trained;
        out.cut += row.tokens - max_length;
        out.cut_trained += trained - row.trained_within(max_length);
    }
    return out;
}

/// The nearest-rank quantiles; sorts.
Quantiles quantiles_of(std::vector<std::int64_t> values) {
    if (values.empty()) return {};
    std::sort(values.begin(), values.end());
    const auto at = [&](std::int64_t hundredths) {
        const auto count = static_cast<std::int64_t>(values.size());
        return values[static_cast<std::size_t>(
            std::max<std::int64_t>(0, (count * hundredths + 99) / 100 - 1))];
    };
    return {values.front(), at(50), at(90), at(99), values.back()};
}

}  // namespace

Lengths find_lengths(std::span<const Row> rows, std::int64_t max_length, Findings& findings) {
    Lengths out;
    std::vector<std::int64_t> tokens, trained;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const Row& row = rows[i];
        if (row.tokens > max_length)
            findings.add(i, {.kind = FindingKind::kTooLong,
                             .weight = static_cast<double>(row.tokens),
                             .figures = {{"over", row.tokens - max_length}}});
        if (row.part != Part::kTrain) continue;
        tokens.push_back(row.tokens);
        trained.push_back(row.trained_within(row.tokens));
        out.tokens += tokens.back();
        out.trained += trained.back();
    }
    out.rows = static_cast<std::int64_t>(tokens.size());
    out.of_rows = quantiles_of(tokens);
    out.of_answers = quantiles_of(trained);
    std::vector<std::int64_t> asked{max_length};
    for (std::int64_t length = kShortestAsked; length == kShortestAsked || length / 2 < out.of_rows.most;
         length *= 2)
        asked.push_back(length);
    std::sort(asked.begin(), asked.end());
    asked.erase(std::unique(asked.begin(), asked.end()), asked.end());
    for (const std::int64_t length : asked) out.costs.push_back(cost_of(rows, length));
    return out;
}

}  // namespace qlora::data_report
