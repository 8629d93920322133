#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "regex.h"

namespace qlora::tokenizer {

/// What becomes of the matches of a splitting pattern.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

std::optional<SplitBehavior> split_behavior_from_name(std::string_view name);

/// `spans` cover a text in order; the result lists the pieces to keep (some may be empty, `is_match` is
/// meaningless).
std::vector<Span> apply_split_behavior(std::vector<Span> spans, SplitBehavior behavior);

}  // namespace qlora::tokenizer
