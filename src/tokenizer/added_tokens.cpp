#include "added_tokens.h"

#include <algorithm>

#include "unicode.h"

namespace qlora::tokenizer {
namespace {

std::size_t skip_white_space_back(std::string_view text, std::size_t begin, std::size_t end) {
    while (end > begin) {
        const CodePoint point = code_point_before(text, end);
        if (!is_white_space(point.value)) break;
        end -= point.length;
    }
    return end;
}

std::size_t skip_white_space(std::string_view text, std::size_t begin) {
    while (begin < text.size()) {
        const CodePoint point = code_point_at(text, begin);
        if (!is_white_space(point.value)) break;
        begin += point.length;
    }
    return begin;
}

bool touches_word(std::string_view text, std::size_t begin, std::size_t end) {
    return (begin > 0 && is_word(code_point_before(text, begin).value)) ||
           (end < text.size() && is_word(code_point_at(text, end).value));
}

}  // namespace

void AddedTokenMatcher::add(const AddedToken& token, std::string_view spelling) {
    std::int32_t node = 0;
    for (const char c : spelling) {
        const std::uint64_t edge = static_cast<std::uint64_t>(node) * 256 + static_cast<unsigned char>(c);
        const auto [at, is_new] = edges_.try_emplace(edge, static_cast<std::int32_t>(token_of_node_.size()));
        if (is_new) token_of_node_.push_back(kNone);
        node = at->second;
    }
    if (token_of_node_[node] != kNone) return;
    token_of_node_[node] = static_cast<std::int32_t>(tokens_.size());
    tokens_.push_back(token);
    first_bytes_.set(static_cast<unsigned char>(spelling.front()));
}

void AddedTokenMatcher::find_at(std::string_view text, std::size_t begin, std::vector<Found>& found) const {
    found.clear();
    std::int32_t node = 0;
    for (std::size_t at = begin; at < text.size(); ++at) {
        const auto edge =
            edges_.find(static_cast<std::uint64_t>(node) * 256 + static_cast<unsigned char>(text[at]));
        if (edge == edges_.end()) break;
        node = edge->second;
        if (token_of_node_[node] != kNone) found.push_back({at + 1, token_of_node_[node]});
    }
}

std::vector<AddedTokenMatcher::Segment> AddedTokenMatcher::split(std::string_view text,
                                                                 const Judge& judge) const {
    std::vector<Segment> segments;
    std::vector<Found> found;
    std::size_t done = 0;  // end of what is covered
    for (std::size_t at = 0; at < text.size();) {
        if (!first_bytes_[static_cast<unsigned char>(text[at])]) {
            ++at;
            continue;
        }
        find_at(text, at, found);
        auto verdict = Verdict::kAnew;
        for (; !found.empty(); found.pop_back()) {
            verdict = judge(tokens_[found.back().token], at, found.back().end);
            if (verdict != Verdict::kAnew) break;
        }
        if (found.empty()) {
            ++at;
            continue;
        }
        const AddedToken& token = tokens_[found.back().token];
        const ByteRange spelling{at, found.back().end};
        at = spelling.end;
        if (verdict == Verdict::kText) continue;
        if (token.single_word && touches_word(text, spelling.begin, spelling.end)) continue;
        std::size_t begin = spelling.begin;
        if (token.lstrip) begin = std::max(done, skip_white_space_back(text, std::min(done, begin), begin));
        const std::size_t end = token.rstrip ? skip_white_space(text, spelling.end) : spelling.end;
        // All of it may be white space that the token before took along.
        if (begin >= end) continue;
        if (done < begin) segments.push_back({done, begin, std::nullopt, {}});
        segments.push_back({begin, end, token.id, spelling});
        done = end;
    }
    if (done != text.size()) segments.push_back({done, text.size(), std::nullopt, {}});
    return segments;
}

}  // namespace qlora::tokenizer
