#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "added_vocabulary.h"
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
    EncodedText encode_text(std::string_view text, const TextEncodingOptions& options) const override;
    std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const override;
    std::int64_t vocab_size() const override;
    std::optional<TokenId> token_to_id(std::string_view token) const override;
    std::string id_to_token(TokenId id) const override;
    bool is_special(TokenId id) const override;

  private:
    SentencePieceTokenizer();
    void load_model(const std::filesystem::path& file);
    void read_settings(const std::filesystem::path& folder);
    bool is_piece(TokenId id) const;
    bool begins_with_blank(std::string_view text) const;
    void encode_marked(std::string_view text, const TextMarks& marks, EncodedText& out) const;
    /// `offset`: where `text` stands in the whole input.
    void encode_pieces(std::string_view text, std::size_t offset, bool has_prefix, const TextMarks& marks,
                       EncodedText& out) const;
    void decode_pieces(std::vector<int> pieces, bool at_start, std::string& text) const;

    std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
    // The same model without the space that sentencepiece puts before a text: for text that follows an added
    // token.
    std::unique_ptr<sentencepiece::SentencePieceProcessor> inner_processor_;
    std::optional<TokenId> anchor_;  // a piece of visible ASCII letters
    std::unique_ptr<ModelVocabulary> pieces_;
    AddedVocabulary added_;         // control pieces first
    bool blank_is_prefix_ = false;  // a text that begins with a blank gets no other one before it
    bool repeats_prefix_ = false;   // "legacy": every stretch of text gets the space, not only the first
    std::optional<TokenId> bos_;    // what add_special_tokens puts before and after a text
    std::optional<TokenId> eos_;
};

}  // namespace qlora::tokenizer
