#include "duplicates.h"

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <vector>

#include "folded_text.h"
#include "min_hash.h"
#include "qlora/core/in_parallel.h"
#include "text_hash.h"

namespace qlora::data_report {
namespace {

/// So many of the rows that may be alike are compared, the likeliest first.
constexpr std::size_t kCompared = 3;
/// A signature that agrees less often is not looked at: at a similarity of 0.8 one in a million does.
constexpr double kLeastAgreement = 0.62;

struct Match {
    std::int64_t row = 0;
    double similarity = 0;
};

std::uint64_t turns_key(const Row& row) {
    TextHash hash;
    for (const Turn& turn : row.turns) {
        hash.add(data::name_of(turn.role));
        hash.add(turn.text);
    }
    return hash.value();
}

std::vector<std::uint64_t> shingles_of_row(const Row& row) {
    return shingles_of(fold(row.text()));
}

/// The rows of one part, each distinct one once.
struct PartRows {
    std::unordered_map<std::uint64_t, std::int64_t> first;  // turns_key -> row
    SimilarityIndex index;
};

/// The most similar row, at least nearly the same, of `candidates` before `end`; of equals the first.
std::optional<Match> best_match(std::span<const Row> rows, std::span<const Signature> signatures,
                                std::size_t row, const SimilarityIndex& index, std::int64_t end) {
    std::vector<Match> likely;
    for (const std::int64_t other : index.candidates(signatures[row])) {
        if (other >= end) break;
        // The rows that one_row_per_answer makes of one contain each other.
        if (rows[row].place == rows[static_cast<std::size_t>(other)].place) continue;
        const double share = agreement(signatures[row], signatures[static_cast<std::size_t>(other)]);
        if (share >= kLeastAgreement) likely.push_back({other, share});
    }
    const auto above = [](const Match& a, const Match& b) { return a.similarity > b.similarity; };
    std::stable_sort(likely.begin(), likely.end(), above);
    if (likely.size() > kCompared) likely.resize(kCompared);
    if (likely.empty()) return std::nullopt;
    const std::vector<std::uint64_t> shingles = shingles_of_row(rows[row]);
    for (Match& match : likely)
        match.similarity = jaccard(shingles, shingles_of_row(rows[static_cast<std::size_t>(match.row)]));
    std::stable_sort(likely.begin(), likely.end(), above);
    if (likely.front().similarity < kNearlyTheSame) return std::nullopt;
    return likely.front();
}

Finding about(FindingKind kind, const Match& match) {
    return {.kind = kind,
            .weight = match.similarity,
            .other = match.row,
            .figures = {{"jaccard", match.similarity}}};
}

class DuplicateSearch {
  public:
    DuplicateSearch(std::span<const Row> rows, std::int64_t threads, Findings& findings)
        : rows_(rows),
          threads_(threads),
          findings_(findings),
          signatures_(rows.size()),
          is_first_(rows.size()),
          same_part_(rows.size()),
          in_training_(rows.size()) {}

    void run() {
        find_exact();
        in_parallel(rows_.size(), threads_, [&](std::size_t i) { sign_row(i); });
        for (std::size_t i = 0; i < rows_.size(); ++i)
            if (is_first_[i] != 0) part(rows_[i]).index.add(static_cast<std::int64_t>(i), signatures_[i]);
        in_parallel(rows_.size(), threads_, [&](std::size_t i) { compare_row(i); });
        for (std::size_t i = 0; i < rows_.size(); ++i) {
            if (same_part_[i]) findings_.add(i, about(FindingKind::kNearDuplicate, *same_part_[i]));
            if (in_training_[i]) findings_.add(i, about(FindingKind::kLeakedNear, *in_training_[i]));
        }
    }

  private:
    PartRows& part(const Row& row) { return row.part == Part::kTrain ? train_ : held_out_; }

    void find_exact() {
        for (std::size_t i = 0; i < rows_.size(); ++i) {
            const std::uint64_t key = turns_key(rows_[i]);
            const auto [place, is_new] = part(rows_[i]).first.try_emplace(key, static_cast<std::int64_t>(i));
            is_first_[i] = is_new;
            if (!is_new)
                findings_.add(i, {.kind = FindingKind::kExactDuplicate, .weight = 1, .other = place->second});
        }
        for (std::size_t i = 0; i < rows_.size(); ++i) {
            if (rows_[i].part == Part::kTrain) continue;
            const auto place = train_.first.find(turns_key(rows_[i]));
            if (place == train_.first.end()) continue;
            findings_.add(i, {.kind = FindingKind::kLeakedRow, .weight = 1, .other = place->second});
        }
    }

    void sign_row(std::size_t i) {
        const std::vector<std::uint64_t> shingles =
            is_first_[i] != 0 ? shingles_of_row(rows_[i]) : std::vector<std::uint64_t>();
        if (shingles.empty()) {
            is_first_[i] = 0;
        } else {
            signatures_[i] = sign(shingles);
        }
    }

    void compare_row(std::size_t i) {
        if (is_first_[i] == 0) return;
        same_part_[i] = best_match(rows_, signatures_, i, part(rows_[i]).index, static_cast<std::int64_t>(i));
        const bool may_leak =
            rows_[i].part == Part::kHeldOut && findings_.find(i, FindingKind::kLeakedRow) == nullptr;
        if (may_leak) {
            const auto all = static_cast<std::int64_t>(rows_.size());
            in_training_[i] = best_match(rows_, signatures_, i, train_.index, all);
        }
    }

    std::span<const Row> rows_;
    std::int64_t threads_;
    Findings& findings_;
    std::vector<Signature> signatures_;
    std::vector<std::uint8_t> is_first_;  // not an exact duplicate within its part, and not without text
    std::vector<std::optional<Match>> same_part_, in_training_;
    PartRows train_, held_out_;
};

}  // namespace

void find_duplicates(std::span<const Row> rows, std::int64_t threads, Findings& findings) {
    DuplicateSearch(rows, threads, findings).run();
}

}  // namespace qlora::data_report
