#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "qlora/core/error.h"

namespace qlora::adapters {

/// A regular expression with the meaning it has in Python's `re`, which is what PEFT applies to module paths.
/// What Python does not know is refused, because PCRE2 would give it a meaning of its own. Throws
/// ConfigError.
class NamePattern {
  public:
    explicit NamePattern(const std::string& regex) : text_(regex) {
        refuse_foreign_syntax();
        int code = 0;
        PCRE2_SIZE offset = 0;
        regex_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(),
                                   PCRE2_UTF | PCRE2_UCP, &code, &offset, nullptr));
        if (regex_ == nullptr) {
            char reason[256] = {};
            pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(reason), sizeof reason);
            refuse(std::string(reason) + " at character " + std::to_string(offset));
        }
        match_.reset(pcre2_match_data_create_from_pattern(regex_.get(), nullptr));
        limits_.reset(pcre2_match_context_create(nullptr));
        constexpr std::uint32_t kMatchLimit = 1'000'000;  // stops expressions that take exponential time
        pcre2_set_match_limit(limits_.get(), kMatchLimit);
    }

    /// As `re.fullmatch`.
    bool matches_whole(const std::string& path) const {
        return run(path, PCRE2_ANCHORED | PCRE2_ENDANCHORED);
    }
    /// As `re.match`: from the start, the end is free.
    bool matches_start(const std::string& path) const { return run(path, PCRE2_ANCHORED); }
    /// The text of the group `name` when the expression matches from the start.
    std::optional<std::string> group(const std::string& path, const char* name) const {
        if (!matches_start(path)) return std::nullopt;
        const int number = pcre2_substring_number_from_name(regex_.get(), reinterpret_cast<PCRE2_SPTR>(name));
        if (number < 0) return std::nullopt;
        const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match_.get());
        const PCRE2_SIZE begin = ends[2 * number];
        if (begin == PCRE2_UNSET) return std::nullopt;
        return path.substr(begin, ends[2 * number + 1] - begin);
    }

  private:
    [[noreturn]] void refuse(const std::string& reason) const {
        throw ConfigError("the regular expression \"" + text_ + "\" cannot be used: " + reason);
    }

    bool run(const std::string& path, std::uint32_t options) const {
        const int found = pcre2_match(regex_.get(), reinterpret_cast<PCRE2_SPTR>(path.data()), path.size(), 0,
                                      options, match_.get(), limits_.get());
        if (found == PCRE2_ERROR_NOMATCH) return false;
        if (found < 0) refuse("it takes too long on the path " + path);
        return true;
    }

    // Escapes, groups and classes of PCRE2 that Python lacks.
    void refuse_foreign_syntax() const {
        constexpr std::string_view kEscapes = "AbBdDsSwWZafnrtvx";
        constexpr std::string_view kAfterQuestion = ":P=!<(>#aiLmsux-";
        for (std::size_t i = 0; i + 1 < text_.size(); ++i) {
            const char next = text_[i + 1];
            const bool is_letter = (next >= 'a' && next <= 'z') || (next >= 'A' && next <= 'Z');
            if (text_[i] == '\\') {
                if (is_letter && kEscapes.find(next) == std::string_view::npos) {
                    refuse(std::string("\\") + next + " is not supported");
                }
                ++i;
            } else if (text_[i] == '(' && next == '*') {
                refuse("(* has no meaning in Python's re");
            } else if (text_[i] == '(' && next == '?' && i + 2 < text_.size()) {
                if (kAfterQuestion.find(text_[i + 2]) == std::string_view::npos) {
                    refuse(std::string("(?") + text_[i + 2] + " has no meaning in Python's re");
                }
            } else if (text_[i] == '[' && next == ':') {
                refuse("[: :] has no meaning in Python's re");
            }
        }
    }

    struct Free {
        void operator()(pcre2_code* code) const { pcre2_code_free(code); }
        void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
        void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
    };

    std::string text_;
    std::unique_ptr<pcre2_code, Free> regex_;
    std::unique_ptr<pcre2_match_data, Free> match_;
    std::unique_ptr<pcre2_match_context, Free> limits_;
};

}  // namespace qlora::adapters
