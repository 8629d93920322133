#include "qlora/data_report/equal_prompts.h"

#include <cmath>
#include <map>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text_hash.h"

namespace qlora::data_report {
namespace {

struct GivenAnswer {
    std::size_t row = 0;
    std::size_t turn = 0;
};

using AnswersOfPrompt = std::vector<GivenAnswer>;

std::string_view text_of(std::span<const Row> rows, const GivenAnswer& answer) {
    return rows[answer.row].turns[answer.turn].text;
}

/// -sum count ln(count / all), in nats.
double summed_entropy(const std::map<std::string_view, std::int64_t>& counts, std::int64_t all) {
    double out = 0;
    for (const auto& [text, count] : counts)
        out -= static_cast<double>(count) * std::log(static_cast<double>(count) / static_cast<double>(all));
    return out;
}

void judge_prompt(std::span<const Row> rows, const AnswersOfPrompt& answers, EqualPrompts& out,
                  Findings& findings) {
    std::map<std::string_view, std::int64_t> counts;
    for (const GivenAnswer& answer : answers) ++counts[text_of(rows, answer)];
    if (counts.size() < 2) return;
    const auto all = static_cast<std::int64_t>(answers.size());
    const double nats = summed_entropy(counts, all);
    ++out.prompts;
    out.answers += all;
    out.nats += nats;
    const GivenAnswer& first = answers.front();
    const GivenAnswer* second = &first;
    for (const GivenAnswer& answer : answers) {
        if (text_of(rows, answer) == text_of(rows, first)) continue;
        second = &answer;
        break;
    }
    for (const GivenAnswer& answer : answers) {
        const bool is_as_first = text_of(rows, answer) == text_of(rows, first);
        findings.add(answer.row, {.kind = FindingKind::kEqualPrompt,
                                  .weight = nats / static_cast<double>(all),
                                  .other = static_cast<std::int64_t>(is_as_first ? second->row : first.row),
                                  .turn = static_cast<std::int64_t>(answer.turn),
                                  .figures = {{"rows", all},
                                              {"answers", counts.size()},
                                              {"nats", nats / static_cast<double>(all)}}});
    }
}

}  // namespace

std::vector<std::uint64_t> prompt_keys(const Row& row) {
    std::vector<std::uint64_t> out;
    TextHash hash;
    hash.add(row.setting);
    for (const Turn& turn : row.turns) {
        out.push_back(hash.value());
        hash.add(data::name_of(turn.role));
        hash.add(turn.text);
    }
    return out;
}

EqualPrompts find_equal_prompts(std::span<const Row> rows, Findings& findings) {
    EqualPrompts out;
    std::unordered_map<std::uint64_t, std::size_t> places;
    std::vector<AnswersOfPrompt> prompts;  // in the order of the rows, so that sums are the same each time
    for (std::size_t i = 0; i < rows.size(); ++i) {
        if (rows[i].part != Part::kTrain) continue;
        ++out.rows;
        out.tokens += rows[i].trained_within(rows[i].tokens);
        const std::vector<std::uint64_t> keys = prompt_keys(rows[i]);
        for (std::size_t turn = 0; turn < rows[i].turns.size(); ++turn) {
            const bool has_prompt = turn > 0 || !rows[i].setting.empty();
            if (!rows[i].turns[turn].trained || !has_prompt) continue;
            const auto [place, is_new] = places.try_emplace(keys[turn], prompts.size());
            if (is_new) prompts.emplace_back();
            prompts[place->second].push_back({i, turn});
        }
    }
    for (const AnswersOfPrompt& answers : prompts)
        if (answers.size() > 1) judge_prompt(rows, answers, out, findings);
    return out;
}

}  // namespace qlora::data_report
