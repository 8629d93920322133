#include "added_tokens.h"

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

std::optional<AddedTokenMatcher::Found> AddedTokenMatcher::longest_at(std::string_view text,
                                                                      std::size_t begin) const {
    std::optional<Found> longest;
    std::int32_t node = 0;
    for (std::size_t at = begin; at < text.size(); ++at) {
        const auto edge =
            edges_.find(static_cast<std::uint64_t>(node) * 256 + static_cast<unsigned char>(text[at]));
        if (edge == edges_.end()) break;
        node = edge->second;
        if (token_of_node_[node] != kNone) longest = Found{at + 1, token_of_node_[node]};
    }
    return longest;
}

std::vector<AddedTokenMatcher::Segment> AddedTokenMatcher::split(std::string_view text,
                                                                 bool parse_special) const {
    std::vector<Segment> segments;
    std::size_t done = 0;  // end of what is covered
    for (std::size_t at = 0; at < text.size();) {
        if (!first_bytes_[static_cast<unsigned char>(text[at])]) {
            ++at;
            continue;
        }
        const std::optional<Found> found = longest_at(text, at);
        if (!found) {
            ++at;
            continue;
        }
        const AddedToken& token = tokens_[found->token];
        std::size_t begin = at;
        std::size_t end = found->end;
        at = end;
        if (token.special && !parse_special) continue;
        if (token.single_word && touches_word(text, begin, end)) continue;
        if (token.lstrip) begin = skip_white_space_back(text, done, begin);
        if (token.rstrip) end = skip_white_space(text, end);
        if (done < begin) segments.push_back({done, begin, std::nullopt});
        segments.push_back({begin, end, token.id});
        done = end;
    }
    if (done != text.size()) segments.push_back({done, text.size(), std::nullopt});
    return segments;
}

}  // namespace qlora::tokenizer
