#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/data_report/row.h"

namespace qlora::data_report {

enum class FindingKind {
    kEqualPrompt,
    kExactDuplicate,
    kNearDuplicate,
    kLeakedRow,
    kLeakedPrompt,
    kLeakedNear,
    kLeakedWords,
    kEmptyAnswer,
    kRefusingAnswer,
    kBoilerplateAnswer,
    kDominatingAnswer,
    kCopiedAnswer,
    kOtherScript,
    kUnpromptedAnswer,
    kTooLong,
};

struct FindingName {
    FindingKind kind;
    std::string_view name;     ///< in files
    std::string_view meaning;  ///< half a sentence for people: "rows that ..."
};

/// All kinds in the order of the report.
const std::vector<FindingName>& finding_names();
std::string_view name_of(FindingKind kind);

/// Something that was found in a row.
struct Finding {
    FindingKind kind;
    double weight = 0;        ///< the worst of a kind are shown first
    std::int64_t other = -1;  ///< the other row that it is about: its place in the list of rows
    std::int64_t turn = -1;   ///< the turn that it is about
    Json figures = Json::object();
};

/// The findings of each row, beside the list of rows. Of each kind a row has one: the first of the heaviest.
class Findings {
  public:
    explicit Findings(std::size_t rows) : of_rows_(rows) {}

    void add(std::size_t row, Finding finding);
    const std::vector<Finding>& of(std::size_t row) const { return of_rows_[row]; }
    /// Null where the row has none of this kind.
    const Finding* find(std::size_t row, FindingKind kind) const;
    std::int64_t count(FindingKind kind) const;

  private:
    std::vector<std::vector<Finding>> of_rows_;
};

}  // namespace qlora::data_report
