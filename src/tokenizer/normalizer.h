#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "aligned_text.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"

namespace qlora::tokenizer {

/// Rewrites text before it is split. Applied to each stretch between added tokens by itself.
class Normalizer {
  public:
    virtual ~Normalizer() = default;
    /// Nothing of one side of a cut is made one with the other.
    virtual void apply(AlignedText& text) const = 0;
    std::string normalize(std::string_view text) const;
    /// Whether the first character of the result always comes from the first one of the text.
    virtual bool keeps_start() const { return false; }
};

/// Null when the file has none, or when it is faulty (the faults are in the list).
std::unique_ptr<Normalizer> read_normalizer(const Json& json, const std::string& path, FaultList& faults);

}  // namespace qlora::tokenizer
