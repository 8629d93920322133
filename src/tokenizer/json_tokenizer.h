#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "added_vocabulary.h"
#include "bpe_model.h"
#include "decoder.h"
#include "normalizer.h"
#include "post_processor.h"
#include "pre_tokenizer.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/tokenizer/tokenizer.h"

namespace qlora::tokenizer {

/// A `tokenizer.json` with a BPE model, exact to Hugging Face tokenizers 0.23. Its `truncation` and `padding`
/// are not applied: lengths are the business of the data pipeline.
class JsonTokenizer final : public Tokenizer {
  public:
    /// What `files` say of added tokens goes before what `json` says, as in transformers. Throws
    /// CheckpointError with all faults; `name` heads the message.
    JsonTokenizer(const Json& json, const std::string& name, const TokenFiles& files = {});
    /// With what the files beside it say.
    static std::unique_ptr<JsonTokenizer> load(const std::filesystem::path& file);

    std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const override;
    EncodedText encode_text(std::string_view text, const TextEncodingOptions& options) const override;
    std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const override;
    std::int64_t vocab_size() const override;
    std::optional<TokenId> token_to_id(std::string_view token) const override;
    std::string id_to_token(TokenId id) const override;
    bool is_special(TokenId id) const override;

  private:
    void encode_marked(std::string_view text, const TextMarks& marks, EncodedText& out) const;
    void encode_piece(const AlignedText& text, std::size_t begin, std::size_t end, EncodedText& out) const;
    std::optional<std::size_t> inside_forged_token(const AlignedText& text, std::size_t begin,
                                                   const std::vector<WordToken>& tokens) const;

    std::unique_ptr<Normalizer> normalizer_;
    std::unique_ptr<PreTokenizer> pre_tokenizer_;
    std::unique_ptr<BpeModel> model_;
    PostProcessor post_processor_;
    std::unique_ptr<Decoder> decoder_;
    AddedVocabulary added_;
};

}  // namespace qlora::tokenizer
