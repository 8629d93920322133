#pragma once

#include <string>
#include <vector>

#include "qlora/data_report/finding.h"

namespace qlora::data_report::test {

/// A row with one prompt and one trained answer: `tokens` in all, of which the last `trained` have a loss.
inline Row pair_row(const std::string& prompt, const std::string& answer, Part part = Part::kTrain,
                    std::int64_t tokens = 10, std::int64_t trained = 4) {
    Row row;
    row.part = part;
    row.tokens = tokens;
    row.trained = {{tokens - trained, tokens}};
    row.turns = {{.role = data::Role::kUser, .text = prompt},
                 {.role = data::Role::kAssistant, .text = answer, .trained = true, .tokens = trained}};
    return row;
}

inline Row text_row(const std::string& text, Part part = Part::kTrain) {
    Row row;
    row.part = part;
    row.tokens = 10;
    row.trained = {{1, 10}};
    row.turns = {{.text = text}};
    return row;
}

/// Gives each row its number and place, as a file would.
inline std::vector<Row> placed(std::vector<Row> rows) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
        rows[i].number = static_cast<std::int64_t>(i);
        rows[i].place = "rows.jsonl:" + std::to_string(i + 1);
    }
    return rows;
}

/// The numbers of the rows that have a finding of this kind.
inline std::vector<std::size_t> rows_with(const Findings& findings, FindingKind kind, std::size_t rows) {
    std::vector<std::size_t> out;
    for (std::size_t i = 0; i < rows; ++i)
        if (findings.find(i, kind) != nullptr) out.push_back(i);
    return out;
}

}  // namespace qlora::data_report::test
