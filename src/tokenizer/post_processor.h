#pragma once

#include <memory>
#include <string>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/tokenizer/tokenizer.h"

namespace qlora::tokenizer {

/// Special tokens that a single text gets around it.
struct PostProcessor {
    std::vector<TokenId> before;
    std::vector<TokenId> after;
};

PostProcessor read_post_processor(const Json& json, const std::string& path, FaultList& faults);

}  // namespace qlora::tokenizer
