#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/core/utf8.h"
#include "qlora/tokenizer/tokenizer.h"

namespace qlora::tokenizer {

EncodedPair encode_pair(const Tokenizer& tokenizer, std::string_view prompt, std::string_view completion) {
    // Each by itself: no character may lie across the edge.
    for (const auto& [name, part] : {std::pair("prompt", prompt), std::pair("completion", completion)}) {
        const std::size_t invalid = find_invalid_utf8(part);
        if (invalid == std::string_view::npos) continue;
        throw DataError("the " + std::string(name) + " is not valid UTF-8 (byte " + std::to_string(invalid) +
                        ")");
    }
    EncodedPair pair;
    TextEncodingOptions options;
    options.cuts = {prompt.size()};
    pair.text = tokenizer.encode_text(std::string(prompt) + std::string(completion), options);
    pair.is_cut = !pair.text.crossed_cuts.empty();
    const std::vector<TokenId>& ids = pair.text.ids;
    const std::vector<TokenId> alone = tokenizer.encode(prompt, {.parse_special = true});
    if (!pair.is_cut && alone.size() <= ids.size() && std::equal(alone.begin(), alone.end(), ids.begin())) {
        pair.prompt_tokens = alone.size();
        return pair;
    }
    const auto& ranges = pair.text.ranges;
    const auto first = std::find_if(ranges.begin(), ranges.end(),
                                    [&](const ByteRange& range) { return range.begin >= prompt.size(); });
    pair.prompt_tokens = static_cast<std::size_t>(first - ranges.begin());
    return pair;
}

}  // namespace qlora::tokenizer
