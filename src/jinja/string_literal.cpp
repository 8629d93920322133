#include <optional>

#include "lexer.h"
#include "messages.h"
#include "python_escape.h"
#include "qlora/core/code_points.h"
#include "qlora/jinja/template.h"

namespace qlora::jinja {
namespace {

std::optional<char> simple_escape(char c) {
    switch (c) {
        case '\\':
            return '\\';
        case '\'':
            return '\'';
        case '"':
            return '"';
        case 'a':
            return '\a';
        case 'b':
            return '\b';
        case 'f':
            return '\f';
        case 'n':
            return '\n';
        case 'r':
            return '\r';
        case 't':
            return '\t';
        case 'v':
            return '\v';
        default:
            return {};
    }
}

int digit_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return 99;
}

class LiteralReader {
  public:
    LiteralReader(std::string_view literal, const std::string& name, int line)
        : literal_(literal), name_(name), line_(line) {}

    std::string run() {
        while (at_ < literal_.size()) {
            if (literal_[at_] != '\\' || at_ + 1 == literal_.size()) {
                out_ += literal_[at_++];
            } else {
                ++at_;
                read_escape();
            }
        }
        return std::move(out_);
    }

  private:
    [[noreturn]] void fail(const std::string& message) const {
        throw SyntaxError(at_line(name_, line_, message));
    }

    // Up to `most` digits, `least` of which must be there.
    void read_code(int base, int least, int most) {
        char32_t code = 0;
        int count = 0;
        for (; count < most && at_ < literal_.size() && digit_of(literal_[at_]) < base; ++count)
            code = code * static_cast<char32_t>(base) + static_cast<char32_t>(digit_of(literal_[at_++]));
        if (count < least) fail("an escape in a string has too few digits");
        if (code >= 0xD800 && code <= 0xDFFF)
            fail("a string holds half of a surrogate pair, which has no UTF-8");
        if (code > 0x10FFFF) fail("an escape in a string is beyond the last character of Unicode");
        encode_utf8(out_, code);
    }

    void read_escape() {
        const char c = literal_[at_];
        if (const auto simple = simple_escape(c)) {
            out_ += *simple;
            ++at_;
        } else if (c == '\n') {
            ++at_;
        } else if (c >= '0' && c <= '7') {
            read_code(8, 1, 3);
        } else if (c == 'x' || c == 'u' || c == 'U') {
            ++at_;
            const int digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
            read_code(16, digits, digits);
        } else if (c == 'N') {
            fail("an escape \\N with a character's name is not supported");
        } else if (static_cast<unsigned char>(c) < 0x80) {
            out_ += {'\\', c};
            ++at_;
        } else {
            // jinja2 escapes what is not ASCII before Python reads the escapes, so that the two slashes
            // become one.
            out_ += python_escape(decode_utf8(literal_, at_));
            at_ += utf8_length(c);
        }
    }

    std::string_view literal_;
    const std::string& name_;
    int line_;
    std::size_t at_ = 0;
    std::string out_;
};

}  // namespace

std::string unescape(std::string_view literal, const std::string& name, int line) {
    return LiteralReader(literal, name, line).run();
}

}  // namespace qlora::jinja
