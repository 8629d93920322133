#include "qlora/core/nearest.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace qlora {
std::string lower_case(std::string_view text) {
    std::string out(text);
    for (char& c : out) c = (c >= 'A' && c <= 'Z') ? static_cast<char>(c - 'A' + 'a') : c;
    return out;
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
    // Rows i - 2, i - 1 and i of the usual table; row i column j = distance of the first i and j characters.
    std::vector<std::size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
    std::iota(above.begin(), above.end(), std::size_t{0});
    for (std::size_t i = 1; i <= a.size(); ++i) {
        row[0] = i;
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t replaced = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
            row[j] = std::min({above[j] + 1, row[j - 1] + 1, replaced});
            const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
        }
        std::swap(before, above);
        std::swap(above, row);
    }
    return above[b.size()];
}

std::vector<std::string> near_names(std::string_view name, const std::vector<std::string>& candidates,
                                    std::size_t limit) {
    constexpr std::size_t kShortestPart = 4;  // "r" is contained in nearly everything
    constexpr std::size_t kLongestName = 100;
    if (name.empty() || name.size() > kLongestName) return {};
    const std::string wanted = lower_case(name);
    std::vector<std::pair<std::size_t, std::string>> scored;
    for (const std::string& candidate : candidates) {
        const std::string other = lower_case(candidate);
        const std::string& shorter = wanted.size() < other.size() ? wanted : other;
        const std::string& longer = wanted.size() < other.size() ? other : wanted;
        const std::size_t edits = edit_distance(wanted, other);
        if (edits <= std::max<std::size_t>(1, (longer.size() + 1) / 3) && edits < longer.size()) {
            scored.emplace_back(edits, candidate);
        } else if (shorter.size() >= kShortestPart && longer.find(shorter) != std::string::npos) {
            scored.emplace_back(kLongestName + longer.size(), candidate);
        }
    }
    std::stable_sort(scored.begin(), scored.end(),
                     [](const auto& x, const auto& y) { return x.first < y.first; });
    std::vector<std::string> names;
    for (const auto& [score, candidate] : scored) {
        if (names.size() == limit) break;
        if (std::find(names.begin(), names.end(), candidate) == names.end()) names.push_back(candidate);
    }
    return names;
}

std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates) {
    const std::vector<std::string> names = near_names(name, candidates);
    if (names.empty()) return "";
    std::string out = "; did you mean ";
    for (std::size_t i = 0; i < names.size(); ++i) {
        if (i > 0) out += i + 1 == names.size() ? " or " : ", ";
        out.append("\"").append(names[i]).append("\"");
    }
    return out + "?";
}

}  // namespace qlora
