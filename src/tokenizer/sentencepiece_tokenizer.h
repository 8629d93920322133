#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "added_tokens.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/tokenizer/tokenizer.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace qlora::tokenizer {

/// A sentencepiece `tokenizer.model` with the added tokens that the JSON files beside it list, in the manner
/// of transformers' Llama tokenizer: control pieces and added tokens cut the text, sentencepiece encodes what
/// is between.
class SentencePieceTokenizer final : public Tokenizer {
  public:
    /// Reads `tokenizer.model`, and `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`
    /// where they exist. Throws CheckpointError with all faults.
    static std::unique_ptr<SentencePieceTokenizer> load(const std::filesystem::path& folder);
    ~SentencePieceTokenizer() override;

    std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const override;
    std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const override;
    std::int64_t vocab_size() const override;
    std::optional<TokenId> token_to_id(std::string_view token) const override;
    std::string id_to_token(TokenId id) const override;
    bool is_special(TokenId id) const override;

  private:
    SentencePieceTokenizer();
    void load_model(const std::filesystem::path& file);
    void read_settings(const std::filesystem::path& folder);
    void add_token(AddedToken token, const std::string& place, FaultList& faults);
    bool is_piece(TokenId id) const;
    const AddedToken* added_token(TokenId id) const;
    void decode_pieces(std::vector<int> pieces, bool at_start, std::string& text) const;

    std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
    // The same model without the space that sentencepiece puts before a text: for text that follows an added
    // token.
    std::unique_ptr<sentencepiece::SentencePieceProcessor> inner_processor_;
    std::optional<TokenId> anchor_;         // a piece of visible ASCII letters
    std::vector<AddedToken> added_tokens_;  // control pieces first
    std::unordered_map<TokenId, std::size_t> added_by_id_;
    std::unordered_map<std::string, TokenId> added_by_content_;
    AddedTokenMatcher matcher_;
    bool repeats_prefix_ = false;  // "legacy": every stretch of text gets the space, not only the first
    std::optional<TokenId> bos_;   // what add_special_tokens puts before and after a text
    std::optional<TokenId> eos_;
};

}  // namespace qlora::tokenizer
