#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "added_tokens.h"
#include "aligned_text.h"
#include "folder_tokens.h"
#include "model_vocabulary.h"
#include "normalizer.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"

namespace qlora::tokenizer {

/// The added tokens of a tokenizer: which there are, by all of its files, and where a text spells them.
class AddedVocabulary {
  public:
    /// `added_tokens` of tokenizer.json; null: none.
    void read_list(const Json& list, const ModelVocabulary& model, FaultList& faults);
    /// What the other files of the folder say; that goes before what is known. `file` is the vocabulary's.
    void read_files(const TokenFiles& files, const ModelVocabulary& model, const std::string& file,
                    FaultList& faults);
    /// Hugging Face tokenizers does not take the ids of a file: a content that the model has keeps the
    /// model's id, any other gets the next free one. A token that says otherwise would mean different ids to
    /// different readers, and is a fault.
    void add(AddedToken token, const ModelVocabulary& model, const std::string& place, FaultList& faults);
    /// To be called when all are there. `normalizer` may be null.
    void build_matchers(const Normalizer* normalizer, FaultList& faults);

    struct Segment {
        AlignedText text;
        std::optional<TokenId> token;  // none: text for the model
        ByteRange source;              // of a token: where the input spells it
        bool at_start;                 // begins where the whole input begins
    };
    /// The text in order, normalized and cut at its added tokens.
    std::vector<Segment> split(std::string_view text, const Normalizer* normalizer,
                               const TextMarks& marks) const;

    const AddedToken* find(TokenId id) const;
    std::optional<TokenId> find(std::string_view content) const;
    /// One past the highest added id; 0: none.
    TokenId id_limit() const { return id_limit_; }

  private:
    TokenId id_to_add(const std::string& content, const ModelVocabulary& model) const;

    std::vector<AddedToken> tokens_;
    TokenId first_id_ = 0;  // the ids of all stand from here to id_limit_
    TokenId id_limit_ = 0;
    std::unordered_map<TokenId, std::size_t> by_id_;
    std::unordered_map<std::string, TokenId> by_content_;
    AddedTokenMatcher raw_matcher_;
    AddedTokenMatcher normalized_matcher_;
};

}  // namespace qlora::tokenizer
