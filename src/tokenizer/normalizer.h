#pragma once

#include <memory>
#include <string>

#include "qlora/core/error.h"
#include "qlora/core/json.h"

namespace qlora::tokenizer {

/// Rewrites text before it is split. Applied to each stretch between added tokens by itself.
class Normalizer {
  public:
    virtual ~Normalizer() = default;
    virtual std::string normalize(std::string text) const = 0;
    /// Whether the first character of the result always comes from the first one of the text.
    virtual bool keeps_start() const { return false; }
};

/// Null when the file has none, or when it is faulty (the faults are in the list).
std::unique_ptr<Normalizer> read_normalizer(const Json& json, const std::string& path, FaultList& faults);

}  // namespace qlora::tokenizer
