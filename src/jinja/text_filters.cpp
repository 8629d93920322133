#include "text_filters.h"

#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>

#include "access.h"
#include "arithmetic.h"
#include "case_mapping.h"
#include "iteration.h"
#include "json_output.h"
#include "messages.h"
#include "numbers.h"
#include "print.h"
#include "text_operations.h"

namespace qlora::jinja {
namespace {

// The text without white space at its ends and without the underscores that Python allows between digits;
// nothing where an underscore stands elsewhere.
std::optional<std::string> numeral(Runtime& runtime, const Text& text) {
    const TextPtr stripped = strip(runtime, text, Side::kBoth);
    const std::string& bytes = stripped->bytes;
    const auto is_digit = [&](std::size_t i) {
        return i < bytes.size() && std::isalnum(static_cast<unsigned char>(bytes[i]));
    };
    std::string out;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        if (bytes[i] != '_') {
            out += bytes[i];
        } else if (i == 0 || !is_digit(i - 1) || !is_digit(i + 1)) {
            return {};
        }
    }
    if (out.starts_with("+") && !out.starts_with("+-") && !out.starts_with("++")) out.erase(0, 1);
    return out;
}

std::optional<double> parse_real(Runtime& runtime, const Text& text) {
    const auto bytes = numeral(runtime, text);
    if (!bytes || bytes->empty()) return {};
    return parse_float(*bytes);
}

std::optional<std::int64_t> parse_whole(Runtime& runtime, const Text& text, std::int64_t base) {
    auto bytes = numeral(runtime, text);
    if (!bytes) return {};
    const std::size_t sign = bytes->starts_with("-") ? 1 : 0;
    const std::string prefix = bytes->substr(sign, 2);
    const auto has_prefix = [&](char letter) {
        return prefix.size() == 2 && prefix[0] == '0' && (prefix[1] | 0x20) == letter;
    };
    if ((base == 16 && has_prefix('x')) || (base == 8 && has_prefix('o')) || (base == 2 && has_prefix('b')))
        bytes->erase(sign, 2);
    std::int64_t value = 0;
    const auto [end, error] =
        std::from_chars(bytes->data(), bytes->data() + bytes->size(), value, static_cast<int>(base));
    if (end != bytes->data() + bytes->size() || bytes->empty()) return {};
    if (error == std::errc::result_out_of_range) runtime.fail("an integer in a text is beyond 64 bits");
    if (error != std::errc()) return {};
    return value;
}

std::int64_t truncated(Runtime& runtime, double value) {
    if (std::abs(value) >= 9223372036854775807.0) runtime.fail("an integer grows beyond 64 bits");
    return static_cast<std::int64_t>(value);
}

// What a text filter works on: text as it is, other values as they are printed.
TextPtr input(Runtime& runtime, const Value& value) {
    return text_of(runtime, value);
}

using Mapping = TextPtr (*)(Runtime&, const Text&);

Value mapped(Runtime& runtime, const Value& value, const Arguments& arguments, std::string_view callee,
             Mapping mapping) {
    const Parameters none(runtime, callee, arguments, {});
    return mapping(runtime, *input(runtime, value));
}

// A piece of json.dumps' separators.
TextPtr separator(Runtime& runtime, const Value& pair, std::size_t index) {
    if (!pair.is_sequence() || pair.list().items.size() != 2 || !pair.list().items[index].is_text())
        runtime.fail("the filter 'tojson' needs two strings as its separators");
    return pair.list().items[index].shared_text();
}

}  // namespace

Value absolute_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters none(runtime, "the filter 'abs'", arguments, {});
    if (value.is(Kind::kFloat)) return Value::real(std::abs(value.real()));
    if (!value.is_whole()) runtime.fail("the filter 'abs' needs a number");
    return value.whole() < 0 ? negate(runtime, value) : Value::integer(value.whole());
}

Value capitalize_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    return mapped(runtime, value, arguments, "the filter 'capitalize'", capitalize);
}

Value lower_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    return mapped(runtime, value, arguments, "the filter 'lower'", lower);
}

Value upper_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    return mapped(runtime, value, arguments, "the filter 'upper'", upper);
}

Value title_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    return mapped(runtime, value, arguments, "the filter 'title'", title_words);
}

Value default_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters given(runtime, "the filter 'default'", arguments, {"default_value", "boolean"});
    const bool is_replaced = value.is_undefined() || (given.truth(1, false) && !is_true(value));
    if (!is_replaced) return value;
    return given.has(0) ? given[0] : runtime.text("");
}

Value float_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters given(runtime, "the filter 'float'", arguments, {"default"});
    if (value.is_undefined()) runtime.fail("the filter 'float' is given an undefined value");
    if (value.is_number()) return Value::real(value.real());
    if (value.is_text())
        if (const auto parsed = parse_real(runtime, value.text())) return Value::real(*parsed);
    return given.has(0) ? given[0] : Value::real(0);
}

Value indent_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters given(runtime, "the filter 'indent'", arguments, {"width", "first", "blank"});
    if (!value.is_text())
        runtime.fail("the filter 'indent' needs a string, not a value of type " +
                     std::string(type_name(value)));
    TextPtr indention;
    if (given.has(0) && given[0].is_text()) {
        indention = given[0].shared_text();
    } else {
        indention = repeat(runtime, runtime.text(" ").text(), given.whole(0, 4));
    }
    return indent(runtime, value.text(), *indention, given.truth(1, false), given.truth(2, false));
}

Value int_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters given(runtime, "the filter 'int'", arguments, {"default", "base"});
    const std::int64_t base = given.whole(1, 10);
    if (value.is_undefined()) runtime.fail("the filter 'int' is given an undefined value");
    if (base < 2 || base > 36) runtime.fail("the filter 'int' needs a base from 2 to 36");
    if (value.is_whole()) return Value::integer(value.whole());
    std::optional<double> real;
    if (value.is(Kind::kFloat)) real = value.real();
    if (value.is_text()) {
        if (const auto whole = parse_whole(runtime, value.text(), base)) return Value::integer(*whole);
        real = parse_real(runtime, value.text());
    }
    if (real && std::isfinite(*real)) return Value::integer(truncated(runtime, *real));
    if (real && std::isinf(*real) && value.is(Kind::kFloat))
        runtime.fail("the filter 'int' is given an infinite number");
    return given.has(0) ? given[0] : Value::integer(0);
}

Value join_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters given(runtime, "the filter 'join'", arguments, {"d", "attribute"});
    std::vector<Value> items = items_of(runtime, value);
    if (given.has(1))
        for (Value& item : items) item = get_path(runtime, item, given[1]);
    const TextPtr between = given.has(0) ? text_of(runtime, given[0]) : runtime.text("").shared_text();
    return join(runtime, *between, items);
}

Value replace_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters given(runtime, "the filter 'replace'", arguments, {"old", "new", "count"}, 2);
    const std::int64_t most = given.has(2) && !given[2].is(Kind::kNone) ? given.whole(2, -1) : -1;
    return replace(runtime, *input(runtime, value), *input(runtime, given[0]), *input(runtime, given[1]),
                   most);
}

Value safe_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters none(runtime, "the filter 'safe'", arguments, {});
    TextBuilder out(runtime.budget);
    print(runtime, out, value);
    return out.finish(true);
}

Value string_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters none(runtime, "the filter 'string'", arguments, {});
    return input(runtime, value);
}

Value tojson_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters given(runtime, "the filter 'tojson'", arguments,
                           {"ensure_ascii", "indent", "separators", "sort_keys"});
    JsonStyle style;
    style.ensure_ascii = given.truth(0, false);
    style.sort_keys = given.truth(3, false);
    if (given.has(1) && !given[1].is(Kind::kNone)) {
        const TextPtr level = given[1].is_text()
                                  ? given[1].shared_text()
                                  : repeat(runtime, runtime.text(" ").text(), given.whole(1, 0));
        style.indent = level->bytes;
    }
    if (given.has(2) && !given[2].is(Kind::kNone)) {
        style.item_separator = separator(runtime, given[2], 0);
        style.key_separator = separator(runtime, given[2], 1);
    }
    return json_text(runtime, value, style);
}

Value trim_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters given(runtime, "the filter 'trim'", arguments, {"chars"});
    const Text* characters = given.has(0) && !given[0].is(Kind::kNone) ? &given.text(0) : nullptr;
    return strip(runtime, *input(runtime, value), Side::kBoth, characters);
}

}  // namespace qlora::jinja
