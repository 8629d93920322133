#include "poor_answers.h"

#include <algorithm>
#include <string>

#include "answer_phrases.h"
#include "folded_text.h"

namespace qlora::data_report {

void find_poor_answers(std::span<const Row> rows, Findings& findings) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
        for (std::size_t turn = 0; turn < rows[i].turns.size(); ++turn) {
            if (!rows[i].turns[turn].trained) continue;
            const std::u32string folded = fold(rows[i].turns[turn].text);
            const auto add = [&](FindingKind kind, Json figures) {
                findings.add(i, {.kind = kind,
                                 .weight = 1,
                                 .turn = static_cast<std::int64_t>(turn),
                                 .figures = std::move(figures)});
            };
            if (std::none_of(folded.begin(), folded.end(), says_something))
                add(FindingKind::kEmptyAnswer, Json::object());
            if (const std::string_view phrase = refusal_in(folded); !phrase.empty())
                add(FindingKind::kRefusingAnswer, {{"phrase", phrase}});
            if (const std::string_view phrase = boilerplate_in(folded); !phrase.empty())
                add(FindingKind::kBoilerplateAnswer, {{"phrase", phrase}});
        }
    }
}

}  // namespace qlora::data_report
