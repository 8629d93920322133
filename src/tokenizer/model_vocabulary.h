#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "qlora/tokenizer/text_encoding.h"

namespace qlora::tokenizer {

/// The tokens that a tokenizer's model has by itself; added tokens are numbered behind them.
class ModelVocabulary {
  public:
    virtual ~ModelVocabulary() = default;
    virtual std::size_t size() const = 0;
    virtual std::optional<TokenId> token_to_id(std::string_view token) const = 0;
    /// Empty for an id that is not used.
    virtual const std::string& id_to_token(TokenId id) const = 0;
};

}  // namespace qlora::tokenizer
