#include "leaks.h"

#include <unordered_map>

#include "folded_text.h"
#include "qlora/data_report/equal_prompts.h"
#include "qlora/data_report/scripts.h"
#include "text_hash.h"

namespace qlora::data_report {
namespace {

constexpr std::size_t kWords = 13;

std::vector<std::uint64_t> word_hashes(std::u32string_view folded) {
    std::vector<std::uint64_t> words;
    bool is_open = false;
    for (const char32_t code : folded) {
        if (!is_word_character(code)) {
            is_open = false;
            continue;
        }
        const bool stands_alone = is_written_without_blanks(code);
        if (stands_alone || !is_open) words.push_back(0);
        words.back() = spread(words.back() ^ (std::uint64_t{code} + 1));
        is_open = !stands_alone;
    }
    return words;
}

bool is_compared(const Row& row, std::size_t turn) {
    return row.turns[turn].trained || (row.turns.size() == 1 && !row.turns[turn].is_answer());
}

/// Where the runs of words of held-out answers are.
using GramPlaces = std::unordered_map<std::uint64_t, std::vector<std::size_t>>;

struct Shared {
    std::int64_t grams = 0;   ///< runs of the held-out row's answers
    std::int64_t shared = 0;  ///< of these, found in training answers
    std::int64_t other = -1;  ///< the first training row with one
};

void find_leaked_words(std::span<const Row> rows, Findings& findings) {
    GramPlaces places;
    std::unordered_map<std::size_t, Shared> of_row;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        if (rows[i].part != Part::kHeldOut) continue;
        for (std::size_t turn = 0; turn < rows[i].turns.size(); ++turn) {
            if (!is_compared(rows[i], turn)) continue;
            for (const std::uint64_t gram : word_grams(rows[i].turns[turn].text)) {
                places[gram].push_back(i);
                ++of_row[i].grams;
            }
        }
    }
    if (places.empty()) return;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        if (rows[i].part != Part::kTrain) continue;
        for (std::size_t turn = 0; turn < rows[i].turns.size(); ++turn) {
            if (!is_compared(rows[i], turn)) continue;
            for (const std::uint64_t gram : word_grams(rows[i].turns[turn].text)) {
                const auto place = places.find(gram);
                if (place == places.end()) continue;
                for (const std::size_t held_out : place->second) {
                    Shared& shared = of_row[held_out];
                    ++shared.shared;
                    if (shared.other < 0) shared.other = static_cast<std::int64_t>(i);
                }
                places.erase(place);  // found once is enough
            }
        }
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const auto found = of_row.find(i);
        if (found == of_row.end() || found->second.shared == 0) continue;
        const Shared& shared = found->second;
        const double share = static_cast<double>(shared.shared) / static_cast<double>(shared.grams);
        findings.add(i, {.kind = FindingKind::kLeakedWords,
                         .weight = share,
                         .other = shared.other,
                         .figures = {{"runs_of_13_words", shared.grams}, {"in_training", shared.shared}}});
    }
}

void find_leaked_prompts(std::span<const Row> rows, Findings& findings) {
    std::unordered_map<std::uint64_t, std::int64_t> trained;
    for (const Part part : {Part::kTrain, Part::kHeldOut}) {
        for (std::size_t i = 0; i < rows.size(); ++i) {
            if (rows[i].part != part || findings.find(i, FindingKind::kLeakedRow) != nullptr) continue;
            const std::vector<std::uint64_t> keys = prompt_keys(rows[i]);
            for (std::size_t turn = 1; turn < rows[i].turns.size(); ++turn) {
                if (!rows[i].turns[turn].trained) continue;
                const std::uint64_t key = keys[turn];
                if (part == Part::kTrain) {
                    trained.try_emplace(key, static_cast<std::int64_t>(i));
                } else if (const auto place = trained.find(key); place != trained.end()) {
                    findings.add(i, {.kind = FindingKind::kLeakedPrompt,
                                     .weight = 1,
                                     .other = place->second,
                                     .turn = static_cast<std::int64_t>(turn)});
                }
            }
        }
    }
}

}  // namespace

std::vector<std::uint64_t> word_grams(std::string_view text) {
    const std::vector<std::uint64_t> words = word_hashes(fold(text));
    std::vector<std::uint64_t> out;
    for (std::size_t i = 0; i + kWords <= words.size(); ++i) {
        std::uint64_t hash = 0;
        for (std::size_t k = 0; k < kWords; ++k) hash = hash * 0xD6E8FEB86659FD93U + words[i + k];
        out.push_back(spread(hash));
    }
    return out;
}

void find_leaks(std::span<const Row> rows, Findings& findings) {
    find_leaked_prompts(rows, findings);
    find_leaked_words(rows, findings);
}

}  // namespace qlora::data_report
