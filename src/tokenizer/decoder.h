#pragma once

#include <memory>
#include <string>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/core/json.h"

namespace qlora::tokenizer {

/// Turns tokens back into text, in steps; the text is what the last step leaves, joined.
class Decoder {
  public:
    virtual ~Decoder() = default;
    virtual std::vector<std::string> decode(std::vector<std::string> tokens) const = 0;
};

/// Null when the file has none, or when it is faulty (the faults are in the list).
std::unique_ptr<Decoder> read_decoder(const Json& json, const std::string& path, FaultList& faults);

}  // namespace qlora::tokenizer
