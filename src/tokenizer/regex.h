#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;

namespace qlora::tokenizer {

/// A part of a text in bytes, and whether the pattern matched it.
struct Span {
    std::size_t begin;
    std::size_t end;
    bool is_match;
};

/// A pattern of a tokenizer.json. Those are written for Oniguruma; here PCRE2 (JIT) runs a translation of
/// them.
class Regex {
  public:
    /// Throws std::invalid_argument that names the construct when the pattern cannot be translated exactly.
    static Regex from_oniguruma(const std::string& pattern);
    /// Matches `text` and nothing else.
    static Regex from_literal(const std::string& text);

    /// First match at or after byte `from`; `text` must be valid UTF-8. Lookbehind sees the bytes before
    /// `from`.
    std::optional<Span> find(std::string_view text, std::size_t from) const;
    /// Covers `text` from end to end with matches and the parts between them, in order.
    std::vector<Span> split(std::string_view text) const;
    /// Every match replaced by `content`, which is taken literally.
    std::string replace(std::string_view text, std::string_view content) const;

  private:
    struct Free {
        void operator()(pcre2_real_code_8* code) const;
    };
    Regex(std::string pattern, std::string translated);

    std::string pattern_;
    std::string literal_;  // not empty: plain search, no code_
    std::unique_ptr<pcre2_real_code_8, Free> code_;
};

}  // namespace qlora::tokenizer
