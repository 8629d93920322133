#include "bpe_model.h"

#include <algorithm>
#include <cstdio>
#include <queue>

#include "unicode.h"

namespace qlora::tokenizer {
namespace {

constexpr std::size_t kIdLimit = std::size_t{1} << 24;  // keeps a broken id from reserving gigabytes
constexpr std::size_t kMaxMergeFaults = 5;
constexpr std::int32_t kMerged = -2;

// Rank first, then place: the smallest is the merge to do next.
std::uint64_t candidate(std::int32_t rank, std::int32_t position) {
    return std::uint64_t{static_cast<std::uint32_t>(rank)} << 32 | static_cast<std::uint32_t>(position);
}

// Candidates that are known from the start are sorted once and read in order; only later ones need a heap.
class CandidateQueue {
  public:
    explicit CandidateQueue(std::vector<std::uint64_t> first) : first_(std::move(first)) {
        std::sort(first_.begin(), first_.end());
    }
    bool empty() const { return next_ == first_.size() && later_.empty(); }
    void push(std::uint64_t item) { later_.push(item); }
    std::uint64_t pop() {
        if (later_.empty() || (next_ < first_.size() && first_[next_] <= later_.top()))
            return first_[next_++];
        const std::uint64_t item = later_.top();
        later_.pop();
        return item;
    }

  private:
    std::vector<std::uint64_t> first_;
    std::size_t next_ = 0;
    std::priority_queue<std::uint64_t, std::vector<std::uint64_t>, std::greater<>> later_;
};

}  // namespace

BpeModel::BpeModel(ComponentReader& reader) {
    const Json* dropout = reader.find("dropout");
    if (dropout != nullptr && !dropout->is_null() && *dropout != 0) {
        reader.fault("dropout", "must be null: the same text has to give the same ids");
    }
    for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
        const Json* value = reader.find(affix);
        if (value != nullptr && !value->is_null() && *value != "") reader.fault(affix, "is not supported");
    }
    fuse_unknown_ = reader.boolean("fuse_unk", false);
    byte_fallback_ = reader.boolean("byte_fallback", false);
    ignore_merges_ = reader.boolean("ignore_merges", false);
    read_vocab(reader);
    read_merges(reader);

    read_unknown(reader);
}

void BpeModel::read_unknown(ComponentReader& reader) {
    const Json* unknown = reader.find("unk_token");
    if (unknown == nullptr || unknown->is_null()) return;
    if (!unknown->is_string()) return reader.fault("unk_token", "must be a string or null");
    unknown_ = token_to_id(unknown->get<std::string>());
    if (!unknown_)
        reader.fault("unk_token", "'" + unknown->get<std::string>() + "' is not in the vocabulary");
}

void BpeModel::read_vocab(ComponentReader& reader) {
    short_ids_.fill(-1);
    byte_ids_.fill(-1);
    const Json* vocab = reader.find("vocab");
    if (vocab == nullptr || !vocab->is_object())
        return reader.fault("vocab", "must be an object of token: id");
    std::size_t limit = 0;
    for (const auto& [token, id] : vocab->items()) {
        if (whole_number(id).value_or(kIdLimit) >= kIdLimit) {
            return reader.fault("vocab", "the id of '" + token + "' must be a whole number from 0 to " +
                                             std::to_string(kIdLimit - 1));
        }
        limit = std::max(limit, id.get<std::size_t>() + 1);
    }
    tokens_.resize(limit);
    std::vector<bool> used(limit, false);
    ids_.reserve(vocab->size());
    for (const auto& [token, value] : vocab->items()) {
        const auto id = value.get<TokenId>();
        if (used[id]) {
            return reader.fault("vocab", "the id " + std::to_string(id) + " is given twice, to '" +
                                             tokens_[id] + "' and to '" + token + "'");
        }
        used[id] = true;
        tokens_[id] = token;
        ids_.emplace(tokens_[id], id);
        if (token.empty()) continue;
        const CodePoint point = code_point_at(token, 0);
        if (point.length == token.size() && point.value < short_ids_.size()) short_ids_[point.value] = id;
    }
    for (int byte = 0; byte < 256; ++byte) {
        char name[8];
        std::snprintf(name, sizeof name, "<0x%02X>", byte);
        byte_ids_[byte] = token_to_id(name).value_or(-1);
    }
}

void BpeModel::read_merges(ComponentReader& reader) {
    const Json::array_t& list = reader.list("merges");
    merges_ = MergeTable(list.size());
    FaultList faults;
    const bool of_pairs = !list.empty() && list.front().is_array();
    for (std::size_t i = 0; i < list.size() && faults.size() < kMaxMergeFaults; ++i) {
        const std::string place = reader.path() + ".merges[" + std::to_string(i) + "]";
        const Json& merge = list[i];
        if (of_pairs && merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
            merge[1].is_string()) {
            add_merge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>(), place,
                      faults);
            continue;
        }
        if (!of_pairs && merge.is_string()) {
            const std::string_view text = merge.get_ref<const std::string&>();
            if (text.substr(0, 8) == "#version") continue;
            const std::size_t space = text.find(' ');
            if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos) {
                add_merge(text.substr(0, space), text.substr(space + 1), place, faults);
                continue;
            }
        }
        faults.add(place, of_pairs ? "must be two strings, like the first"
                                   : "must be two tokens with one space between");
    }
    for (const std::string& fault : faults.faults()) reader.faults().add("", fault);
}

void BpeModel::add_merge(std::string_view left, std::string_view right, const std::string& place,
                         FaultList& faults) {
    const std::string joined = std::string(left) + std::string(right);
    const std::optional<TokenId> left_id = token_to_id(left);
    const std::optional<TokenId> right_id = token_to_id(right);
    const std::optional<TokenId> result = token_to_id(joined);
    for (const auto& [token, id] : {std::pair(std::string(left), left_id),
                                    std::pair(std::string(right), right_id), std::pair(joined, result)}) {
        if (!id) return faults.add(place, "'" + token + "' is not in the vocabulary");
    }
    merges_.add(*left_id, *right_id, *result);
}

std::optional<TokenId> BpeModel::token_to_id(std::string_view token) const {
    const auto found = ids_.find(token);
    if (found == ids_.end()) return std::nullopt;
    return found->second;
}

const std::string& BpeModel::id_to_token(TokenId id) const {
    static const std::string kNone;
    return id >= 0 && static_cast<std::size_t>(id) < tokens_.size() ? tokens_[id] : kNone;
}

std::optional<TokenId> BpeModel::character_id(std::string_view character) const {
    const CodePoint point = code_point_at(character, 0);
    if (point.value >= short_ids_.size()) return token_to_id(character);
    const TokenId id = short_ids_[point.value];
    return id < 0 ? std::nullopt : std::optional(id);
}

std::vector<WordToken> BpeModel::characters(std::string_view word) const {
    std::vector<WordToken> tokens;
    tokens.reserve(word.size());
    // Unknown characters in a row are one unknown token when fused. Byte tokens do not end such a row: where
    // a vocabulary has only some bytes, the pending unknown comes after them, as in tokenizers.
    std::optional<WordToken> unknown;
    const auto flush_unknown = [&] {
        // Behind byte tokens it stands for nothing, so that ranges ascend.
        if (unknown && !tokens.empty() && tokens.back().begin > unknown->begin)
            unknown->begin = unknown->end = tokens.back().end;
        if (unknown) tokens.push_back(*unknown);
        unknown.reset();
    };
    for (std::size_t at = 0; at < word.size();) {
        const std::size_t length = code_point_at(word, at).length;
        const std::string_view character = word.substr(at, length);
        const auto begin = static_cast<std::uint32_t>(at);
        const auto end = static_cast<std::uint32_t>(at + length);
        at += length;
        if (const std::optional<TokenId> id = character_id(character)) {
            flush_unknown();
            tokens.push_back({*id, begin, end});
            continue;
        }
        const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
        if (byte_fallback_ &&
            std::all_of(character.begin(), character.end(), [&](char byte) { return byte_id(byte) >= 0; })) {
            for (std::uint32_t i = begin; i < end; ++i) tokens.push_back({byte_id(word[i]), i, i + 1});
            continue;
        }
        if (!unknown_) continue;
        if (unknown && !fuse_unknown_) flush_unknown();
        unknown = WordToken{*unknown_, unknown ? unknown->begin : begin, end};
    }
    flush_unknown();
    return tokens;
}

std::vector<WordToken> BpeModel::merge_all(const std::vector<WordToken>& characters) const {
    const auto count = static_cast<std::int32_t>(characters.size());
    std::vector<Symbol> symbols(characters.size());
    std::vector<std::uint64_t> pairs;
    for (std::int32_t i = 0; i < count; ++i) {
        symbols[i] = {characters[i], i - 1, i + 1 < count ? i + 1 : -1};
        if (i + 1 == count) break;
        const std::int32_t rank = merges_.rank(characters[i].id, characters[i + 1].id);
        if (rank != MergeTable::kNone) pairs.push_back(candidate(rank, i));
    }
    CandidateQueue queue(std::move(pairs));
    const auto offer = [&](std::int32_t position) {
        if (position < 0 || symbols[position].next < 0) return;
        const std::int32_t rank =
            merges_.rank(symbols[position].token.id, symbols[symbols[position].next].token.id);
        if (rank != MergeTable::kNone) queue.push(candidate(rank, position));
    };
    while (!queue.empty()) {
        const std::uint64_t best = queue.pop();
        const auto position = static_cast<std::int32_t>(best & 0xFFFFFFFFu);
        const TokenId result = merges_.result(static_cast<std::int32_t>(best >> 32));
        Symbol& left = symbols[position];
        if (left.next < 0) continue;  // merged away, or the last one now
        Symbol& right = symbols[left.next];
        // The parts may have changed since; what counts is that they still make the same token.
        const std::int32_t rank = merges_.rank(left.token.id, right.token.id);
        if (rank == MergeTable::kNone || merges_.result(rank) != result) continue;
        left.token = {result, left.token.begin, right.token.end};
        left.next = right.next;
        right.next = kMerged;
        if (left.next >= 0) symbols[left.next].previous = position;
        offer(left.previous);
        offer(position);
    }
    std::vector<WordToken> merged;
    for (std::int32_t i = count == 0 ? -1 : 0; i >= 0; i = symbols[i].next)
        merged.push_back(symbols[i].token);
    return merged;
}

void BpeModel::encode(std::string_view word, std::vector<WordToken>& out) const {
    out.clear();
    if (ignore_merges_) {
        if (const std::optional<TokenId> whole = token_to_id(word))
            return out.push_back({*whole, 0, static_cast<std::uint32_t>(word.size())});
    }
    if (cache_.find(word, out)) return;
    out = merge_all(characters(word));
    cache_.add(word, out);
}

}  // namespace qlora::tokenizer
