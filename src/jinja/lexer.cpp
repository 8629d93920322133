#include "lexer.h"

#include <algorithm>
#include <array>

#include "messages.h"
#include "qlora/core/code_points.h"
#include "qlora/jinja/template.h"

namespace qlora::jinja {
namespace {

constexpr std::array<std::string_view, 26> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                         "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                         ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool begins_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool continues_name(char c) {
    return begins_name(c) || is_digit(c);
}

// Line ends as \n; one at the very end is no part of the template.
std::string with_plain_line_ends(std::string_view source) {
    std::string out;
    out.reserve(source.size());
    for (std::size_t i = 0; i < source.size(); ++i) {
        if (source[i] == '\r') {
            out += '\n';
            if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
        } else {
            out += source[i];
        }
    }
    if (!out.empty() && out.back() == '\n') out.pop_back();
    return out;
}

class Lexer {
  public:
    Lexer(std::string source, const std::string& name) : source_(std::move(source)), name_(name) {}

    std::vector<Token> run() {
        while (at_ < source_.size()) read_data();
        add(TokenType::kEnd, "");
        return std::move(tokens_);
    }

  private:
    [[noreturn]] void fail(const std::string& message) const {
        throw SyntaxError(at_line(name_, line_, message));
    }

    char peek(std::size_t ahead = 0) const {
        return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
    }
    bool looks_at(std::string_view text) const {
        return std::string_view(source_).substr(at_, text.size()) == text;
    }
    void add(TokenType type, std::string text) { tokens_.push_back({type, line_, std::move(text)}); }

    void advance_to(std::size_t end) {
        line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                             source_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
        at_ = end;
    }
    void skip_space() {
        std::size_t end = at_;
        while (end < source_.size() && is_python_space(decode_utf8(source_, end)))
            end += utf8_length(source_[end]);
        advance_to(end);
    }

    // Text up to the next tag, and that tag.
    void read_data() {
        std::size_t tag = at_;
        while ((tag = source_.find('{', tag)) != std::string::npos) {
            const char next = tag + 1 < source_.size() ? source_[tag + 1] : '\0';
            if (next == '%' || next == '{' || next == '#') break;
            ++tag;
        }
        const std::size_t end = std::min(tag, source_.size());
        const bool has_tag = end < source_.size();
        const char sign = has_tag && end + 2 < source_.size() ? source_[end + 2] : '\0';
        const bool is_variable = has_tag && source_[end + 1] == '{';
        std::string text = source_.substr(at_, end - at_);
        if (has_tag) strip_before_tag(text, sign, is_variable);
        if (!text.empty()) add(TokenType::kData, std::move(text));
        advance_to(end);
        if (!has_tag) return;
        const char kind = source_[end + 1];
        at_ += 2 + (sign == '-' || sign == '+' ? 1 : 0);
        if (kind == '#') {
            skip_comment();
        } else {
            add(kind == '%' ? TokenType::kBlockBegin : TokenType::kVariableBegin, "");
            read_tag(kind == '%');
        }
    }

    void strip_before_tag(std::string& text, char sign, bool is_variable) const {
        const auto cut_space_after = [&](std::size_t from) {
            std::size_t end = text.size();
            while (end > from) {
                std::size_t before = end - 1;
                while (before > from && is_utf8_continuation(text[before])) --before;
                if (!is_python_space(decode_utf8(text, before))) break;
                end = before;
            }
            return end;
        };
        if (sign == '-') {
            text.resize(cut_space_after(0));
        } else if (sign != '+' && !is_variable) {
            const std::size_t line = text.rfind('\n') + 1;  // 0 without a line end
            if ((line > 0 || at_line_start_) && cut_space_after(line) == line) text.resize(line);
        }
    }

    // Goes behind a tag's end, which is `width` bytes long, and what is trimmed after it.
    void end_tag(std::size_t width, bool strips, bool trims_line_end) {
        const std::size_t begin = at_;
        advance_to(at_ + width);
        if (strips) {
            skip_space();
        } else if (trims_line_end && peek() == '\n') {
            advance_to(at_ + 1);
        }
        at_line_start_ = at_ > begin && source_[at_ - 1] == '\n';
    }

    void skip_comment() {
        const std::size_t end = source_.find("#}", at_);
        if (end == std::string::npos) fail("a comment is not closed with #}");
        const char sign = end > at_ ? source_[end - 1] : '\0';
        advance_to(end);
        end_tag(2, sign == '-', sign != '+');
    }

    // Whether the tag ends here; braces that are open belong to the expression.
    bool read_tag_end(bool is_block) {
        if (!open_.empty()) return false;
        const std::string_view close = is_block ? "%}" : "}}";
        const char sign = peek();
        const bool has_sign = (sign == '-' || (sign == '+' && is_block)) &&
                              std::string_view(source_).substr(at_ + 1, 2) == close;
        if (!has_sign && !looks_at(close)) return false;
        add(is_block ? TokenType::kBlockEnd : TokenType::kVariableEnd, "");
        end_tag(has_sign ? 3 : 2, has_sign && sign == '-', is_block && !has_sign);
        return true;
    }

    void read_tag(bool is_block) {
        const int begin_line = line_;
        while (true) {
            if (read_tag_end(is_block)) return;
            if (at_ >= source_.size()) {
                line_ = begin_line;
                fail(std::string("a tag is not closed with ") + (is_block ? "%}" : "}}"));
            }
            if (is_python_space(decode_utf8(source_, at_))) {
                skip_space();
            } else if (is_digit(peek())) {
                read_number();
            } else if (begins_name(peek())) {
                read_name();
            } else if (peek() == '\'' || peek() == '"') {
                read_string();
            } else {
                read_operator();
            }
        }
    }

    void read_name() {
        std::size_t end = at_;
        while (end < source_.size() && continues_name(source_[end])) ++end;
        add(TokenType::kName, source_.substr(at_, end - at_));
        at_ = end;
    }

    // Digits with single underscores between them, from `from` on; returns their end, which is `from` without
    // any.
    template <class IsDigit>
    std::size_t digits_end(std::size_t from, IsDigit is_right_digit) const {
        std::size_t end = from;
        while (end < source_.size()) {
            if (is_right_digit(source_[end])) {
                ++end;
            } else if (end > from && source_[end] == '_' && end + 1 < source_.size() &&
                       is_right_digit(source_[end + 1])) {
                end += 2;
            } else {
                break;
            }
        }
        return end;
    }

    std::size_t fraction_end(std::size_t end) const {
        std::size_t out = end;
        if (out < source_.size() && source_[out] == '.') {
            const std::size_t digits = digits_end(out + 1, is_digit);
            if (digits > out + 1) out = digits;
        }
        if (out < source_.size() && (source_[out] | 0x20) == 'e') {
            std::size_t digits = out + 1;
            if (digits < source_.size() && (source_[digits] == '+' || source_[digits] == '-')) ++digits;
            const std::size_t last = digits_end(digits, is_digit);
            if (last > digits) out = last;
        }
        return out;
    }

    void read_number() {
        std::size_t end = digits_end(at_, is_digit);
        const bool follows_dot = at_ > 0 && source_[at_ - 1] == '.';  // x.0.1 is an index of an index
        const std::size_t real_end = follows_dot ? end : fraction_end(end);
        TokenType type = TokenType::kInteger;
        if (real_end > end) {
            end = real_end;
            type = TokenType::kFloat;
        } else if (peek() == '0') {
            end = prefixed_end();
        }
        std::string text = source_.substr(at_, end - at_);
        text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
        add(type, std::move(text));
        at_ = end;
    }

    // 0x1f, 0o17, 0b1; otherwise zeros alone: 012 are two numbers.
    std::size_t prefixed_end() const {
        const char kind = static_cast<char>(peek(1) | 0x20);
        const auto is_right_digit = [kind](char c) {
            if (kind == 'b') return c == '0' || c == '1';
            if (kind == 'o') return c >= '0' && c <= '7';
            return is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
        };
        if (kind == 'b' || kind == 'o' || kind == 'x') {
            std::size_t digits = at_ + 2;
            if (digits < source_.size() && source_[digits] == '_') ++digits;
            const std::size_t end = digits_end(digits, is_right_digit);
            if (end > digits) return end;
        }
        return digits_end(at_, [](char c) { return c == '0'; });
    }

    void read_string() {
        const char quote = peek();
        std::size_t end = at_ + 1;
        while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
        if (end >= source_.size()) fail("a string is not closed");
        add(TokenType::kString,
            unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1), name_, line_));
        advance_to(end + 1);
    }

    void read_operator() {
        const auto found = std::find_if(kOperators.begin(), kOperators.end(),
                                        [&](std::string_view text) { return looks_at(text); });
        if (found == kOperators.end()) {
            const std::size_t length = utf8_length(peek());
            fail("unexpected character " + in_quotes(std::string_view(source_).substr(at_, length)));
        }
        const char c = peek();
        if (c == '(' || c == '[' || c == '{') {
            open_.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
        } else if (c == ')' || c == ']' || c == '}') {
            if (open_.empty()) fail(std::string("unexpected '") + c + "'");
            if (open_.back() != c)
                fail(std::string("unexpected '") + c + "', expected '" + open_.back() + "'");
            open_.pop_back();
        }
        add(TokenType::kOperator, std::string(*found));
        at_ += found->size();
    }

    std::string source_;
    const std::string& name_;
    std::vector<Token> tokens_;
    std::vector<char> open_;  // closing braces that are expected
    std::size_t at_ = 0;
    int line_ = 1;
    bool at_line_start_ = true;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, const std::string& name) {
    return Lexer(with_plain_line_ends(source), name).run();
}

}  // namespace qlora::jinja
