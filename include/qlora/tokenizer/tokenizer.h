#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/tokenizer/text_encoding.h"

namespace qlora::tokenizer {

/// How text becomes ids. The defaults are what message content needs: nothing added, no control token.
struct EncodeOptions {
    /// Text that spells a special token (`<|im_end|>`) becomes that token. Added tokens that are not special
    /// (Qwen3's `<think>`) are vocabulary and recognised either way, as transformers' split_special_tokens
    /// does.
    bool parse_special = false;
    /// The post-processor's special tokens (a BOS, say) are added, as `tokenizer(text)` does in transformers.
    bool add_special_tokens = false;
};

/// A checkpoint's tokenizer: `tokenizer.json` (Hugging Face tokenizers) or `tokenizer.model` (sentencepiece).
class Tokenizer {
  public:
    virtual ~Tokenizer() = default;

    /// Throws DataError when `text` is not valid UTF-8. May be called from several threads.
    virtual std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options = {}) const = 0;
    /// The whole of a rendered text: control tokens are recognised outside of the plain ranges, and what is
    /// between two of them is one text. With no options, the ids are those of encode with `parse_special`.
    /// Throws DataError when `text` is not valid UTF-8, std::invalid_argument for offsets that do not fit it.
    virtual EncodedText encode_text(std::string_view text, const TextEncodingOptions& options = {}) const = 0;
    /// Inverse of encode, as `tokenizer.decode(ids, skip_special_tokens=...,
    /// clean_up_tokenization_spaces=False)`.
    virtual std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens = false) const = 0;

    /// One past the highest id, added tokens included.
    virtual std::int64_t vocab_size() const = 0;
    virtual std::optional<TokenId> token_to_id(std::string_view token) const = 0;
    /// The token as the vocabulary spells it (byte-level BPE: with its byte alphabet); empty for an unused
    /// id.
    virtual std::string id_to_token(TokenId id) const = 0;
    virtual bool is_special(TokenId id) const = 0;
};

/// What a model folder says about its special tokens (`tokenizer_config.json`, `special_tokens_map.json`,
/// `generation_config.json`, `config.json`, in transformers' order of precedence).
struct SpecialTokens {
    std::optional<TokenId> bos;
    std::optional<TokenId> eos;
    std::optional<TokenId> pad;
};

/// Reads `tokenizer.json` if the folder has one, else `tokenizer.model`. An unsupported component is refused
/// by name.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder);
SpecialTokens load_special_tokens(const std::filesystem::path& folder, const Tokenizer& tokenizer);

/// How the folder spells its seven named special tokens ("bos_token", "eos_token", ...), those that it names:
/// transformers' special_tokens_map, which chat templates see.
std::map<std::string, std::string> special_token_texts(const std::filesystem::path& folder);

/// The files that make up a tokenizer (those that exist), for copying beside an adapter. A link that leads
/// nowhere and a Git LFS pointer are a CheckpointError.
std::vector<std::filesystem::path> tokenizer_files(const std::filesystem::path& folder);
/// Hex XXH3-128 of the tokenizer's vocabulary file.
std::string tokenizer_fingerprint(const std::filesystem::path& folder);

}  // namespace qlora::tokenizer
