#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "added_tokens.h"
#include "bpe_model.h"
#include "decoder.h"
#include "folder_tokens.h"
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
    std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const override;
    std::int64_t vocab_size() const override;
    std::optional<TokenId> token_to_id(std::string_view token) const override;
    std::string id_to_token(TokenId id) const override;
    bool is_special(TokenId id) const override;

  private:
    void read_added_tokens(const Json& list, FaultList& faults);
    void read_token_files(const TokenFiles& files, FaultList& faults);
    void register_added_token(AddedToken token, const std::string& place, FaultList& faults);
    TokenId id_to_add(const std::string& content) const;
    void build_matchers(FaultList& faults);
    void encode_text(std::string_view text, bool at_start, std::vector<TokenId>& ids) const;
    const AddedToken* added_token(TokenId id) const;

    std::unique_ptr<Normalizer> normalizer_;
    std::unique_ptr<PreTokenizer> pre_tokenizer_;
    std::unique_ptr<BpeModel> model_;
    PostProcessor post_processor_;
    std::unique_ptr<Decoder> decoder_;
    std::vector<AddedToken> added_tokens_;
    TokenId added_id_limit_ = 0;  // one past the highest added id
    std::unordered_map<TokenId, std::size_t> added_by_id_;
    std::unordered_map<std::string, TokenId> added_by_content_;
    AddedTokenMatcher raw_matcher_;
    AddedTokenMatcher normalized_matcher_;
};

}  // namespace qlora::tokenizer
