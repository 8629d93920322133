#include "qlora/data_report/finding.h"

#include <algorithm>
#include <utility>

namespace qlora::data_report {

const std::vector<FindingName>& finding_names() {
    using enum FindingKind;
    static const std::vector<FindingName> kNames{
        {kEqualPrompt, "equal_prompt", "have a prompt of another training row, with another answer"},
        {kExactDuplicate, "exact_duplicate", "repeat an earlier row of the same part"},
        {kNearDuplicate, "near_duplicate", "are nearly an earlier row of the same part"},
        {kLeakedRow, "leaked_row", "are held out and also trained on"},
        {kLeakedPrompt, "leaked_prompt", "are held out, and their prompt is trained on with another answer"},
        {kLeakedNear, "leaked_near", "are held out and nearly a training row"},
        {kLeakedWords, "leaked_words", "are held out, with 13 words in a row of a training answer"},
        {kEmptyAnswer, "empty_answer", "have an answer without a letter, digit or symbol"},
        {kRefusingAnswer, "refusing_answer", "have an answer that begins as a refusal"},
        {kBoilerplateAnswer, "boilerplate_answer", "have an answer with a stock phrase of assistants"},
        {kDominatingAnswer, "dominating_answer", "have one of the answers that many rows share"},
        {kCopiedAnswer, "copied_answer", "have an answer copied from the prompt"},
        {kOtherScript, "other_script", "have an answer in another script than the prompt's"},
        {kUnpromptedAnswer, "unprompted_answer", "have an answer that is likelier without its prompt"},
        {kTooLong, "too_long", "are longer than data.max_length"},
    };
    return kNames;
}

std::string_view name_of(FindingKind kind) {
    const auto& names = finding_names();
    return std::find_if(names.begin(), names.end(), [&](const FindingName& one) { return one.kind == kind; })
        ->name;
}

void Findings::add(std::size_t row, Finding finding) {
    for (Finding& known : of_rows_[row]) {
        if (known.kind != finding.kind) continue;
        if (finding.weight > known.weight) known = std::move(finding);
        return;
    }
    of_rows_[row].push_back(std::move(finding));
}

const Finding* Findings::find(std::size_t row, FindingKind kind) const {
    for (const Finding& finding : of_rows_[row])
        if (finding.kind == kind) return &finding;
    return nullptr;
}

std::int64_t Findings::count(FindingKind kind) const {
    std::int64_t rows = 0;
    for (std::size_t row = 0; row < of_rows_.size(); ++row) rows += find(row, kind) != nullptr;
    return rows;
}

}  // namespace qlora::data_report
