#include "split_behavior.h"

#include <algorithm>

namespace qlora::tokenizer {

std::optional<SplitBehavior> split_behavior_from_name(std::string_view name) {
    if (name == "Removed") return SplitBehavior::kRemoved;
    if (name == "Isolated") return SplitBehavior::kIsolated;
    if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
    if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
    if (name == "Contiguous") return SplitBehavior::kContiguous;
    return std::nullopt;
}

std::vector<Span> apply_split_behavior(std::vector<Span> spans, SplitBehavior behavior) {
    if (behavior == SplitBehavior::kIsolated) return spans;
    if (behavior == SplitBehavior::kRemoved) {
        std::erase_if(spans, [](const Span& span) { return span.is_match; });
        return spans;
    }
    const bool backwards = behavior == SplitBehavior::kMergedWithNext;
    if (backwards) std::reverse(spans.begin(), spans.end());
    std::vector<Span> kept;
    bool previous_match = false;
    for (const Span& span : spans) {
        const bool joins = behavior == SplitBehavior::kContiguous ? span.is_match == previous_match
                                                                  : span.is_match && !previous_match;
        previous_match = span.is_match;
        if (!joins || kept.empty()) {
            kept.push_back(span);
        } else if (backwards) {
            kept.back().begin = span.begin;
        } else {
            kept.back().end = span.end;
        }
    }
    if (backwards) std::reverse(kept.begin(), kept.end());
    return kept;
}

}  // namespace qlora::tokenizer
