#include "oniguruma_syntax.h"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "newer_unicode.h"
#include "qlora/core/utf8.h"
#include "unicode.h"

namespace qlora::tokenizer {
namespace {

constexpr std::string_view kCategories[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",
                                            "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
                                            "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp"};

std::string hex_escape(char32_t value) {
    char text[16];
    std::snprintf(text, sizeof text, "\\x{%X}", static_cast<unsigned>(value));
    return text;
}

bool is_letter_or_digit(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// One element of a pattern: a single code point, or members that fit between the brackets of a class.
struct Element {
    std::optional<char32_t> literal;
    std::string members;   // "\p{L}\x{..}-\x{..}"
    bool negated = false;  // the complement of `members`
};

class Translator {
  public:
    explicit Translator(const std::string& pattern) : in_(pattern) {}

    std::string run() {
        // Elsewhere than at the start, Ruby lets it reach over the alternatives that follow and PCRE2 does
        // not.
        if (in_.substr(0, 4) == "(?i)") {
            at_ = 4;
            out_ = "(?i)";
            caseless_ = true;
        }
        while (at_ < in_.size()) step();
        if (!groups_.empty()) refuse("a group that is not closed");
        return out_;
    }

  private:
    struct Group {
        std::size_t start;
        bool caseless;
    };

    [[noreturn]] static void refuse(const std::string& what) { throw std::invalid_argument(what); }

    bool accept(std::string_view text) {
        if (in_.substr(at_, text.size()) != text) return false;
        at_ += text.size();
        return true;
    }

    void step() {
        const char c = in_[at_];
        if (c == '(') return open_group();
        if (c == ')') return close_group();
        if (c == '*' || c == '+' || c == '?') return quantify_simple(c);
        if (c == '{') return interval_or_brace();
        if (c == '|') {
            out_ += c;
            ++at_;
            atom_.reset();
            last_literal_ = 0;
            return;
        }
        if (c == '^' || c == '$' || accept_anchor()) {
            if (c == '^' || c == '$') out_ += in_[at_++];
            atom_.reset();
            last_literal_ = 0;
            return;
        }
        begin_atom();
        if (c == '.') {
            out_ += in_[at_++];
            last_literal_ = 0;
        } else if (c == '[') {
            translate_class();
            last_literal_ = 0;
        } else {
            put(read_element(false));
        }
    }

    bool accept_anchor() {
        const std::string_view two = in_.substr(at_, 2);
        if (two != "\\A" && two != "\\z") return false;
        out_ += two;
        at_ += 2;
        return true;
    }

    void begin_atom() {
        atom_ = out_.size();
        quantified_ = false;
    }

    void put(const Element& element) {
        if (element.literal) {
            check_caseless(*element.literal, last_literal_);
            last_literal_ = *element.literal;
            out_ += hex_escape(*element.literal);
        } else {
            last_literal_ = 0;
            out_ += (element.negated ? "[^" : "[") + element.members + "]";
        }
    }

    // Oniguruma's caseless matching lets some letters match two others (the sharp s and "ss"); PCRE2's does
    // not.
    void check_caseless(char32_t value, char32_t before) const {
        if (!caseless_) return;
        if (value >= 0x80) refuse("a letter beyond ASCII in a caseless group");
        const auto lower = [](char32_t v) { return v >= 'A' && v <= 'Z' ? v + 32 : v; };
        const char32_t a = lower(before);
        const char32_t b = lower(value);
        if ((a == 's' && (b == 's' || b == 't')) || (a == 'f' && (b == 'f' || b == 'i' || b == 'l'))) {
            refuse("ss, st, ff, fi or fl in a caseless group");
        }
    }

    void open_group() {
        static constexpr std::string_view kPlain[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
        Group group{out_.size(), caseless_};
        const auto* plain = std::find_if(std::begin(kPlain), std::end(kPlain),
                                         [&](std::string_view opening) { return accept(opening); });
        if (plain != std::end(kPlain)) {
            out_ += *plain;
        } else if (accept("(?i:")) {
            out_ += "(?i:";
            caseless_ = true;
        } else if (in_.substr(at_, 2) == "(?") {
            refuse("the group '" + std::string(in_.substr(at_, 4)) + "'");
        } else {
            // No back-references are taken, so that nothing needs the capture.
            out_ += "(?:";
            ++at_;
        }
        groups_.push_back(group);
        atom_.reset();
        last_literal_ = 0;
    }

    void close_group() {
        if (groups_.empty()) refuse("a ')' without '('");
        out_ += ')';
        ++at_;
        atom_ = groups_.back().start;
        quantified_ = false;
        caseless_ = groups_.back().caseless;
        groups_.pop_back();
        last_literal_ = 0;
    }

    void check_quantifiable() const {
        if (!atom_) refuse("a quantifier with nothing before it");
        if (quantified_) refuse("two quantifiers in a row");
    }

    void quantify_simple(char c) {
        check_quantifiable();
        out_ += c;
        ++at_;
        if (at_ < in_.size() && (in_[at_] == '?' || in_[at_] == '+')) out_ += in_[at_++];
        quantified_ = true;
        last_literal_ = 0;
    }

    // {n} {n,} {n,m} {,m}; any other brace is itself.
    void interval_or_brace() {
        std::size_t end = at_ + 1;
        const auto digits = [&] {
            const std::size_t first = end;
            while (end < in_.size() && in_[end] >= '0' && in_[end] <= '9') ++end;
            return std::string(in_.substr(first, end - first));
        };
        const std::string low = digits();
        const bool has_comma = end < in_.size() && in_[end] == ',';
        if (has_comma) ++end;
        const std::string high = has_comma ? digits() : low;
        if (end >= in_.size() || in_[end] != '}' || (low.empty() && high.empty())) {
            begin_atom();
            put({U'{', "", false});
            ++at_;
            return;
        }
        check_quantifiable();
        if (low.size() > 4 || high.size() > 4) refuse("a repeat count above 9999");
        if (!low.empty() && !high.empty() && std::stoi(low) > std::stoi(high))
            refuse("a repeat {n,m} with n > m");
        at_ = end + 1;
        out_ += "{" + (low.empty() ? "0" : low) + (has_comma ? "," + high : "") + "}";
        if (at_ < in_.size() && in_[at_] == '?') {
            if (!has_comma) refuse("{n}?");
            out_ += in_[at_++];
        } else if (at_ < in_.size() && in_[at_] == '+') {
            // Ruby's syntax reads this as a repeat of the repeat, not as possessive.
            out_.insert(*atom_, "(?:");
            out_ += ")+";
            ++at_;
        }
        quantified_ = true;
        last_literal_ = 0;
    }

    Element read_element(bool in_class) {
        if (in_[at_] != '\\') {
            const CodePoint point = code_point_at(in_, at_);
            at_ += point.length;
            return {point.value, "", false};
        }
        if (++at_ >= in_.size()) refuse("a backslash at the end");
        const char c = in_[at_++];
        switch (c) {
            case 's':
                return {std::nullopt, "\\p{White_Space}", false};
            case 'S':
                return {std::nullopt, "\\p{White_Space}", true};
            case 'd':
                return {std::nullopt, category("Nd"), false};
            case 'D':
                return {std::nullopt, category("Nd"), true};
            case 'w':
                return {std::nullopt, word(in_class), false};
            case 'W':
                return {std::nullopt, word(in_class), true};
            case 'p':
                return read_property(false);
            case 'P':
                return read_property(true);
            case 'n':
                return {U'\n', "", false};
            case 'r':
                return {U'\r', "", false};
            case 't':
                return {U'\t', "", false};
            case 'f':
                return {U'\f', "", false};
            case 'v':
                return {U'\v', "", false};
            case 'a':
                return {U'\a', "", false};
            case 'e':
                return {char32_t{0x1B}, "", false};
            case 'x':
                return {read_hex(), "", false};
            case 'u':
                return {read_digits(4, 4), "", false};
            default:
                break;
        }
        if (is_letter_or_digit(c)) refuse(std::string("the escape \\") + c);
        --at_;
        const CodePoint point = code_point_at(in_, at_);
        at_ += point.length;
        return {point.value, "", false};
    }

    char32_t read_hex() {
        if (!accept("{")) {
            const char32_t value = read_digits(1, 2);
            if (value > 0x7F) refuse("a raw byte above \\x7F");
            return value;
        }
        const char32_t value = read_digits(1, 6);
        if (!accept("}")) refuse("\\x{ without its }");
        return value;
    }

    char32_t read_digits(int at_least, int at_most) {
        char32_t value = 0;
        int count = 0;
        for (; count < at_most && at_ < in_.size(); ++count, ++at_) {
            const char c = in_[at_];
            if (c >= '0' && c <= '9') {
                value = value * 16 + static_cast<char32_t>(c - '0');
            } else if ((c | 32) >= 'a' && (c | 32) <= 'f') {
                value = value * 16 + static_cast<char32_t>((c | 32) - 'a' + 10);
            } else {
                break;
            }
        }
        if (count < at_least || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
            refuse("a code point that does not exist");
        }
        return value;
    }

    static std::string category(std::string_view name) {
        return "\\p{" + std::string(name) + "}" + newer_ranges(name);
    }

    // Outside a class, Oniguruma counts the fractions and superscript digits of Latin-1 as word characters
    // too.
    static std::string word(bool in_class) {
        return "\\p{Alphabetic}" + newer_ranges("L") + category("M") + category("Nd") + newer_ranges("Nl") +
               category("Pc") + (in_class ? "" : "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}");
    }

    Element read_property(bool negated) {
        if (!accept("{")) refuse("\\p without {..}");
        if (accept("^")) negated = !negated;
        const std::size_t end = in_.find('}', at_);
        if (end == std::string_view::npos) refuse("\\p{ without its }");
        const std::string name(in_.substr(at_, end - at_));
        at_ = end + 1;
        if (std::find(std::begin(kCategories), std::end(kCategories), name) == std::end(kCategories)) {
            refuse("the property \\p{" + name + "}");
        }
        if (caseless_ && (name == "Lu" || name == "Ll" || name == "Lt")) {
            refuse("\\p{" + name + "} in a caseless group");
        }
        return {std::nullopt, category(name), negated};
    }

    void translate_class() {
        ++at_;
        out_ += accept("^") ? "[^" : "[";
        bool is_empty = true;
        while (true) {
            if (at_ >= in_.size()) refuse("a class that is not closed");
            if (in_[at_] == ']') break;
            if (in_[at_] == '[') refuse("a class inside a class");
            if (in_.substr(at_, 2) == "&&") refuse("an intersection of classes");
            translate_member();
            is_empty = false;
        }
        if (is_empty) refuse("an empty class");
        out_ += ']';
        ++at_;
    }

    void translate_member() {
        const Element first = read_element(true);
        const bool is_range = at_ + 1 < in_.size() && in_[at_] == '-' && in_[at_ + 1] != ']';
        if (!first.literal) {
            if (is_range) refuse("a range that starts with a set");
            if (first.negated && first.members != "\\p{White_Space}") refuse("a negated set inside a class");
            out_ += first.negated ? "\\P{White_Space}" : first.members;
            return;
        }
        check_caseless(*first.literal, 0);
        out_ += hex_escape(*first.literal);
        if (!is_range) return;
        ++at_;
        if (in_[at_] == '[') refuse("a class inside a class");
        const Element last = read_element(true);
        if (!last.literal) refuse("a range that ends with a set");
        if (*last.literal < *first.literal) refuse("a range whose end lies before its start");
        check_caseless(*last.literal, 0);
        out_ += "-" + hex_escape(*last.literal);
    }

    std::string_view in_;
    std::size_t at_ = 0;
    std::string out_;
    std::vector<Group> groups_;
    std::optional<std::size_t> atom_;  // where in out_ the thing starts that a quantifier would repeat
    bool quantified_ = false;
    bool caseless_ = false;
    char32_t last_literal_ = 0;
};

}  // namespace

std::string translate_oniguruma(const std::string& pattern) {
    if (find_invalid_utf8(pattern) != std::string::npos)
        throw std::invalid_argument("text that is not UTF-8");
    return Translator(pattern).run();
}

}  // namespace qlora::tokenizer
