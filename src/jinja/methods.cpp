#include "methods.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include "case_mapping.h"
#include "compare.h"
#include "iteration.h"
#include "messages.h"
#include "print.h"
#include "qlora/core/code_points.h"
#include "text_operations.h"

namespace qlora::jinja {
namespace {

using Names = std::initializer_list<std::string_view>;

constexpr std::array<std::string_view, 20> kTextMethods = {
    "split",    "rsplit",  "splitlines", "strip",        "lstrip",       "rstrip",     "startswith",
    "endswith", "replace", "upper",      "lower",        "title",        "capitalize", "format",
    "join",     "find",    "count",      "removeprefix", "removesuffix", "index"};
constexpr std::array<std::string_view, 4> kDictMethods = {"items", "keys", "values", "get"};
constexpr std::array<std::string_view, 2> kListMethods = {"index", "count"};

constexpr std::array<std::string_view, 27> kOtherTextMethods = {
    "casefold", "center",    "encode",     "expandtabs",   "format_map", "isalnum",   "isalpha",
    "isascii",  "isdecimal", "isdigit",    "isidentifier", "islower",    "isnumeric", "isprintable",
    "isspace",  "istitle",   "isupper",    "ljust",        "maketrans",  "partition", "rfind",
    "rindex",   "rjust",     "rpartition", "swapcase",     "translate",  "zfill"};
constexpr std::array<std::string_view, 14> kNumberAttributes = {
    "real",     "imag",       "numerator", "denominator", "conjugate",  "bit_length",       "bit_count",
    "to_bytes", "from_bytes", "hex",       "fromhex",     "is_integer", "as_integer_ratio", "__int__"};

template <class Table>
std::string_view entry_of(const Table& table, std::string_view name) {
    const auto found = std::find(table.begin(), table.end(), name);
    return found != table.end() ? *found : std::string_view();
}

bool is_one_of(std::string_view name, Names names) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

// A parameter without a name can only be given by its place, as in Python.
constexpr std::string_view kByPlace = {};

std::string method_title(const Method& method) {
    return "the method '" + std::string(method.name) + "'";
}

const Text* optional_text(const Parameters& given, std::size_t index) {
    return given.has(index) && !given[index].is(Kind::kNone) ? &given.text(index) : nullptr;
}

// The part of a text that start and end of startswith, endswith, find and count choose; null when it begins
// after the text's end, where not even the empty text is found.
TextPtr chosen_part(Runtime& runtime, const Value& receiver, const Parameters& given, std::int64_t* begin) {
    std::optional<std::int64_t> start, stop;
    if (given.has(1) && !given[1].is(Kind::kNone)) start = given.whole(1, 0);
    if (given.has(2) && !given[2].is(Kind::kNone)) stop = given.whole(2, 0);
    if (!start && !stop) return receiver.shared_text();
    const auto length = static_cast<std::int64_t>(receiver.text().length());
    if (start.value_or(0) > length) return nullptr;
    if (begin != nullptr) *begin = clip_slice(length, start, stop, 1).start;
    return slice(runtime, receiver.text(), start, stop, 1);
}

bool matches(Runtime& runtime, std::string_view text, const Value& affix, bool at_end) {
    if (!affix.is_text())
        runtime.fail(std::string(at_end ? "endswith" : "startswith") +
                     " needs a string or a tuple of strings");
    return at_end ? text.ends_with(affix.text().view()) : text.starts_with(affix.text().view());
}

Value has_affix(Runtime& runtime, const Value& receiver, const Parameters& given, bool at_end) {
    const TextPtr part = chosen_part(runtime, receiver, given, nullptr);
    if (!given[0].is(Kind::kTuple)) {
        const bool holds = part != nullptr && matches(runtime, part->view(), given[0], at_end);
        if (part == nullptr && !given[0].is_text()) matches(runtime, "", given[0], at_end);
        return Value::boolean(holds);
    }
    for (const Value& affix : given[0].list().items)
        if (part != nullptr && matches(runtime, part->view(), affix, at_end)) return Value::boolean(true);
    return Value::boolean(false);
}

Value found_place(Runtime& runtime, const Value& receiver, const Parameters& given, bool must_be_there) {
    std::int64_t begin = 0;
    const Text& wanted = given.text(0);
    const TextPtr part = chosen_part(runtime, receiver, given, &begin);
    const std::size_t at =
        part == nullptr ? std::string_view::npos : find_text(runtime.budget, part->view(), wanted.view());
    if (at == std::string_view::npos) {
        if (must_be_there) runtime.fail("the text that index looks for is not there");
        return Value::integer(-1);
    }
    const auto characters =
        std::count_if(part->bytes.begin(), part->bytes.begin() + static_cast<std::ptrdiff_t>(at),
                      [](char c) { return !is_utf8_continuation(c); });
    return Value::integer(begin + characters);
}

Value occurrences(Runtime& runtime, const Value& receiver, const Parameters& given) {
    const Text& wanted = given.text(0);
    const TextPtr part = chosen_part(runtime, receiver, given, nullptr);
    if (part == nullptr) return Value::integer(0);
    if (wanted.bytes.empty()) return Value::integer(static_cast<std::int64_t>(part->length()) + 1);
    std::int64_t count = 0;
    for (std::size_t at = 0;; ++count, at += wanted.bytes.size()) {
        at = find_text(runtime.budget, part->view(), wanted.view(), at);
        if (at == std::string_view::npos) return Value::integer(count);
    }
}

TextPtr joined(Runtime& runtime, const Text& separator, const Value& value) {
    std::vector<Value> items = items_of(runtime, value);
    for (Value& item : items) {
        if (!item.is_text())
            runtime.fail("join needs strings, not a value of type " + std::string(type_name(item)));
        if (separator.is_markup) item = escape_markup(runtime, item.text());
    }
    return join(runtime, separator, items, separator.is_markup);
}

// str.format with fields {}, {0} and {name}.
TextPtr formatted(Runtime& runtime, const Text& pattern, const Arguments& arguments) {
    TextBuilder out(runtime.budget);
    std::size_t plain = 0, next = 0;
    const std::string_view bytes = pattern.view();
    const auto put = [&](std::string_view field) {
        if (field.find_first_of(".[:!") != std::string_view::npos)
            runtime.fail("format with the field " + in_quotes(field) + " is not supported");
        const bool is_numbered =
            !field.empty() && field.find_first_not_of("0123456789") == std::string_view::npos;
        const Value* value = nullptr;
        if (field.empty() || is_numbered) {
            const std::size_t index = field.empty()      ? next++
                                      : field.size() < 6 ? std::stoul(std::string(field))
                                                         : 1000000;
            if (index < arguments.positional.size()) value = &arguments.positional[index];
        } else {
            for (const auto& [name, named] : arguments.named)
                if (name == field) value = &named;
        }
        if (value == nullptr) runtime.fail("format has no argument for the field " + in_quotes(field));
        const TextPtr text = text_of(runtime, *value);
        out.append(pattern.is_markup ? *escape_markup(runtime, *text) : *text);
    };
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        if (bytes[i] != '{' && bytes[i] != '}') continue;
        out.append(pattern, plain, i);
        runtime.budget.step();
        if (i + 1 < bytes.size() && bytes[i + 1] == bytes[i]) {
            out.append(pattern, i, i + 1);
            ++i;
        } else {
            const std::size_t end = bytes[i] == '{' ? bytes.find('}', i) : std::string_view::npos;
            if (end == std::string_view::npos) runtime.fail("format has a brace without its other one");
            put(bytes.substr(i + 1, end - i - 1));
            i = end;
        }
        plain = i + 1;
    }
    out.append(pattern, plain, bytes.size());
    return out.finish(pattern.is_markup);
}

Value strip_method(Runtime& runtime, const Method& method, const Arguments& arguments, Side side) {
    const Parameters given(runtime, method_title(method), arguments, {kByPlace});
    return strip(runtime, method.receiver.text(), side, optional_text(given, 0));
}

Value split_method(Runtime& runtime, const Method& method, const Arguments& arguments, bool from_right) {
    const Parameters given(runtime, method_title(method), arguments, {"sep", "maxsplit"});
    const Text* separator = optional_text(given, 0);
    const std::int64_t most = given.whole(1, -1);
    const Text& text = method.receiver.text();
    return runtime.list(from_right ? split_from_right(runtime, text, separator, most)
                                   : split(runtime, text, separator, most));
}

Value replace_method(Runtime& runtime, const Method& method, const Arguments& arguments) {
    const Parameters given(runtime, method_title(method), arguments, {kByPlace, kByPlace, kByPlace}, 2);
    const Text& text = method.receiver.text();
    const std::int64_t most = given.whole(2, -1);
    if (!text.is_markup) return replace(runtime, text, given.text(0), given.text(1), most);
    return replace(runtime, text, given.text(0), *escape_markup(runtime, given.text(1)), most, true);
}

Value without_affix(Runtime& runtime, const Method& method, const Arguments& arguments, bool at_end) {
    const Parameters given(runtime, method_title(method), arguments, {kByPlace}, 1);
    const Text &text = method.receiver.text(), &affix = given.text(0);
    const std::size_t size = text.bytes.size(), width = affix.bytes.size();
    if (at_end)
        return cut(runtime.budget, text, 0, text.view().ends_with(affix.view()) ? size - width : size);
    return cut(runtime.budget, text, text.view().starts_with(affix.view()) ? width : 0, size);
}

Value call_text_method(Runtime& runtime, const Method& method, const Arguments& arguments) {
    const std::string_view name = method.name;
    const Text& text = method.receiver.text();
    if (name == "split" || name == "rsplit")
        return split_method(runtime, method, arguments, name == "rsplit");
    if (name == "strip") return strip_method(runtime, method, arguments, Side::kBoth);
    if (name == "lstrip") return strip_method(runtime, method, arguments, Side::kLeft);
    if (name == "rstrip") return strip_method(runtime, method, arguments, Side::kRight);
    if (name == "replace") return replace_method(runtime, method, arguments);
    if (name == "removeprefix" || name == "removesuffix")
        return without_affix(runtime, method, arguments, name == "removesuffix");
    if (name == "format") return formatted(runtime, text, arguments);
    if (name == "startswith" || name == "endswith") {
        const Parameters given(runtime, method_title(method), arguments, {kByPlace, kByPlace, kByPlace}, 1);
        return has_affix(runtime, method.receiver, given, name == "endswith");
    }
    if (name == "find" || name == "index" || name == "count") {
        const Parameters given(runtime, method_title(method), arguments, {kByPlace, kByPlace, kByPlace}, 1);
        if (name == "count") return occurrences(runtime, method.receiver, given);
        return found_place(runtime, method.receiver, given, name == "index");
    }
    if (name == "join") {
        const Parameters given(runtime, method_title(method), arguments, {kByPlace}, 1);
        return joined(runtime, text, given[0]);
    }
    const Parameters none(runtime, method_title(method), arguments, {});
    if (name == "splitlines") return runtime.list(split_lines(runtime, text));
    if (name == "upper") return upper(runtime, text);
    if (name == "lower") return lower(runtime, text);
    if (name == "title") return title(runtime, text);
    return capitalize(runtime, text);
}

Value call_dict_method(Runtime& runtime, const Method& method, const Arguments& arguments) {
    const Dict& dict = method.receiver.dict();
    if (method.name == "get") {
        const Parameters given(runtime, method_title(method), arguments, {kByPlace, kByPlace}, 1);
        check_hashable(runtime.budget, given[0]);
        if (const Value* found = dict.find(runtime.budget, given[0])) return *found;
        return given.has(1) ? given[1] : Value::none();
    }
    const Parameters none(runtime, method_title(method), arguments, {});
    std::vector<Value> items;
    items.reserve(dict.entries.size());
    for (const auto& [key, value] : dict.entries) {
        runtime.budget.step();
        items.push_back(method.name == "keys"     ? key
                        : method.name == "values" ? value
                                                  : runtime.tuple({key, value}));
    }
    const std::string_view type = method.name == "keys"     ? "dict_keys"
                                  : method.name == "values" ? "dict_values"
                                                            : "dict_items";
    return runtime.view(std::move(items), type);
}

Value call_list_method(Runtime& runtime, const Method& method, const Arguments& arguments) {
    const Parameters given(runtime, method_title(method), arguments, {kByPlace}, 1);
    std::int64_t count = 0, index = 0;
    for (const Value& item : method.receiver.list().items) {
        if (equal(runtime.budget, item, given[0])) {
            if (method.name == "index") return Value::integer(index);
            ++count;
        }
        ++index;
    }
    if (method.name == "index") runtime.fail("the value that index looks for is not in the list");
    return Value::integer(count);
}

}  // namespace

std::string_view find_method(const Value& value, std::string_view name) {
    if (value.is_text()) return entry_of(kTextMethods, name);
    if (value.is(Kind::kDict)) return entry_of(kDictMethods, name);
    if (value.is_sequence()) return entry_of(kListMethods, name);
    return {};
}

bool is_mutating_method(const Value& value, std::string_view name) {
    if (value.is(Kind::kDict)) return is_one_of(name, {"clear", "pop", "popitem", "setdefault", "update"});
    if (value.is(Kind::kList))
        return is_one_of(name, {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"});
    return false;
}

bool is_unsupported_attribute(const Value& value, std::string_view name) {
    if (value.is_text())
        return !entry_of(kOtherTextMethods, name).empty() ||
               (value.text().is_markup && is_one_of(name, {"escape", "striptags", "unescape"}));
    if (value.is(Kind::kDict)) return is_one_of(name, {"copy", "fromkeys"});
    if (value.is(Kind::kList)) return name == "copy";
    if (value.is_number()) return !entry_of(kNumberAttributes, name).empty();
    if (value.is(Kind::kRange)) return is_one_of(name, {"start", "stop", "step", "index", "count"});
    if (value.is(Kind::kView)) return is_one_of(name, {"mapping", "isdisjoint"});
    if (value.is(Kind::kMacro))
        return is_one_of(name, {"name", "arguments", "catch_kwargs", "catch_varargs", "caller"});
    return false;
}

Value call_method(Runtime& runtime, const Method& method, const Arguments& arguments) {
    if (method.receiver.is_text()) return call_text_method(runtime, method, arguments);
    if (method.receiver.is(Kind::kDict)) return call_dict_method(runtime, method, arguments);
    return call_list_method(runtime, method, arguments);
}

}  // namespace qlora::jinja
