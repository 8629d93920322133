#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "component_reader.h"
#include "merge_table.h"
#include "model_vocabulary.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/tokenizer/tokenizer.h"
#include "word_cache.h"

namespace qlora::tokenizer {

/// Byte-pair encoding: a word starts as its characters, and the pair with the lowest rank is merged until
/// none is left.
class BpeModel final : public ModelVocabulary {
  public:
    /// Faults go to the reader's list; the model may be used only when there are none.
    explicit BpeModel(ComponentReader& reader);

    /// Puts the tokens of one word into `out`, in O(n log n). Bytes that no token stands for were dropped.
    void encode(std::string_view word, std::vector<WordToken>& out) const;

    /// Number of tokens; one past the highest id may be more.
    std::size_t size() const override { return ids_.size(); }
    std::size_t id_limit() const { return tokens_.size(); }
    std::optional<TokenId> token_to_id(std::string_view token) const override;
    const std::string& id_to_token(TokenId id) const override;

  private:
    struct Symbol {
        WordToken token;
        std::int32_t previous;  // -1: none
        std::int32_t next;      // -1: none; kMerged: this symbol was merged into the one before it
    };

    void read_vocab(ComponentReader& reader);
    void read_merges(ComponentReader& reader);
    void read_unknown(ComponentReader& reader);
    void add_merge(std::string_view left, std::string_view right, const std::string& place,
                   FaultList& faults);
    std::vector<WordToken> characters(std::string_view word) const;
    std::vector<WordToken> merge_all(const std::vector<WordToken>& characters) const;
    std::optional<TokenId> character_id(std::string_view character) const;

    std::vector<std::string> tokens_;                    // by id
    std::unordered_map<std::string_view, TokenId> ids_;  // views into tokens_
    MergeTable merges_;
    std::array<TokenId, 0x250> short_ids_{};  // of the code points up to Latin Extended-B; -1: none
    std::array<TokenId, 256> byte_ids_{};     // of <0x00> to <0xFF>; -1: none
    std::optional<TokenId> unknown_;
    bool fuse_unknown_ = false;
    bool byte_fallback_ = false;
    bool ignore_merges_ = false;

    mutable WordCache cache_;  // words encoded before
};

}  // namespace qlora::tokenizer
