#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/tokenizer/tokenizer.h"
#include "tokenizer/json_tokenizer.h"

namespace qlora::tokenizer {

/// A tokenizer.json over the letters a, b, c, the space and two bytes beyond ASCII, with the merges ab, bc
/// and abc. Tests change what they are about.
inline Json tiny_json() {
    return parse_json(R"({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "Ã": 4, "©": 5, "ab": 6, "bc": 7, "abc": 8},
                  "merges": ["b c", "a b", "a bc"]}})",
                      "tiny");
}

/// An entry of added_tokens.
inline Json added_token(int id, const std::string& content, bool special,
                        const std::vector<std::string>& flags = {}) {
    Json token = {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                  {"rstrip", false}, {"normalized", false}, {"special", special}};
    for (const std::string& flag : flags) token[flag] = true;
    return token;
}

/// A part of a file, from its text.
inline Json json_of(std::string_view text) {
    return parse_json(text, "part");
}

}  // namespace qlora::tokenizer
