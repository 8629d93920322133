#include "qlora/data_report/dominating_answers.h"

#include <algorithm>
#include <unordered_map>

#include "folded_text.h"

namespace qlora::data_report {
namespace {

constexpr std::int64_t kFewestAnswers = 10;
constexpr double kLeastShare = 0.05;

struct Places {
    std::vector<std::pair<std::size_t, std::size_t>> rows_and_turns;
};

}  // namespace

std::vector<DominatingAnswer> find_dominating_answers(std::span<const Row> rows, Findings& findings) {
    std::unordered_map<std::u32string, Places> places;
    std::int64_t all = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        if (rows[i].part != Part::kTrain) continue;
        for (std::size_t turn = 0; turn < rows[i].turns.size(); ++turn) {
            if (!rows[i].turns[turn].trained) continue;
            ++all;
            places[fold(rows[i].turns[turn].text)].rows_and_turns.emplace_back(i, turn);
        }
    }
    std::vector<const Places*> frequent;
    for (const auto& [text, of_text] : places) {
        const auto count = static_cast<std::int64_t>(of_text.rows_and_turns.size());
        if (count >= kFewestAnswers && static_cast<double>(count) >= kLeastShare * static_cast<double>(all))
            frequent.push_back(&of_text);
    }
    std::sort(frequent.begin(), frequent.end(), [](const Places* a, const Places* b) {
        if (a->rows_and_turns.size() != b->rows_and_turns.size())
            return a->rows_and_turns.size() > b->rows_and_turns.size();
        return a->rows_and_turns.front() < b->rows_and_turns.front();
    });
    std::vector<DominatingAnswer> out;
    for (const Places* of_text : frequent) {
        const auto& [first_row, first_turn] = of_text->rows_and_turns.front();
        const auto count = static_cast<std::int64_t>(of_text->rows_and_turns.size());
        const double share = static_cast<double>(count) / static_cast<double>(all);
        out.push_back({rows[first_row].turns[first_turn].text, count, share});
        for (const auto& [row, turn] : of_text->rows_and_turns)
            findings.add(row, {.kind = FindingKind::kDominatingAnswer,
                               .weight = share,
                               .turn = static_cast<std::int64_t>(turn),
                               .figures = {{"answers", count}, {"share", share}}});
    }
    return out;
}

}  // namespace qlora::data_report
