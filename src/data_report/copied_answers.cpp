#include "copied_answers.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "folded_text.h"
#include "min_hash.h"
#include "qlora/core/in_parallel.h"

namespace qlora::data_report {
namespace {

constexpr std::size_t kFewestCharacters = 40;
constexpr double kCopied = 0.9;

/// Which share of the 5-grams of `answer` are in `prompt`; 0 for an answer that is too short to tell.
double copied_share(const std::string& answer, const std::string& prompt) {
    const std::u32string folded = fold(answer);
    if (folded.size() < kFewestCharacters) return 0;
    const std::vector<std::uint64_t> of_answer = shingles_of(folded);
    const std::vector<std::uint64_t> of_prompt = shingles_of(fold(prompt));
    std::vector<std::uint64_t> both;
    std::set_intersection(of_answer.begin(), of_answer.end(), of_prompt.begin(), of_prompt.end(),
                          std::back_inserter(both));
    return static_cast<double>(both.size()) / static_cast<double>(of_answer.size());
}

}  // namespace

void find_copied_answers(std::span<const Row> rows, std::int64_t threads, Findings& findings) {
    // Each row has findings of its own, so threads do not meet.
    in_parallel(rows.size(), threads, [&](std::size_t i) {
        const std::vector<Turn>& turns = rows[i].turns;
        for (std::size_t turn = 1; turn < turns.size(); ++turn) {
            if (!turns[turn].trained) continue;
            const double share = copied_share(turns[turn].text, turns[turn - 1].text);
            if (share < kCopied) continue;
            findings.add(i, {.kind = FindingKind::kCopiedAnswer,
                             .weight = share,
                             .turn = static_cast<std::int64_t>(turn),
                             .figures = {{"copied", share}}});
        }
    });
}

}  // namespace qlora::data_report
