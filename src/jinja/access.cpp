#include "access.h"

#include <algorithm>
#include <charconv>

#include "compare.h"
#include "iteration.h"
#include "messages.h"
#include "methods.h"
#include "text_operations.h"

namespace qlora::jinja {
namespace {

// Python's internals; jinja2's sandbox makes them undefined.
bool is_internal(std::string_view name) {
    return name.size() > 4 && name.starts_with("__") && name.ends_with("__");
}

std::optional<Value> loop_attribute(Runtime& runtime, Loop& loop, std::string_view name) {
    if (name == "index") return Value::integer(loop.index + 1);
    if (name == "index0") return Value::integer(loop.index);
    if (name == "first") return Value::boolean(loop.index == 0);
    if (name == "last") return Value::boolean(!loop.has_next());
    if (name == "previtem") return loop.index > 0 ? loop.previous : Value();
    if (name == "nextitem") return loop.has_next() ? loop.next_item() : Value();
    if (name == "length") return Value::integer(loop.length());
    if (name == "revindex") return Value::integer(loop.length() - loop.index);
    if (name == "revindex0") return Value::integer(loop.length() - loop.index - 1);
    if (name == "depth") return Value::integer(1);
    if (name == "depth0") return Value::integer(0);
    if (name == "cycle" || name == "changed") runtime.fail("loop." + std::string(name) + " is not supported");
    return {};
}

// What Python's getattr finds.
std::optional<Value> python_attribute(Runtime& runtime, const Value& value, std::string_view name) {
    if (value.is_undefined())
        runtime.fail((value.name() != nullptr ? in_quotes(*value.name()) + " is undefined"
                                              : "the value is undefined") +
                     ", so it has no " + in_quotes(name));
    if (value.is(Kind::kNamespace)) {
        const Value* found = value.name_space().find(name);
        return found != nullptr ? std::optional<Value>(*found) : std::nullopt;
    }
    if (value.is(Kind::kLoop)) return loop_attribute(runtime, value.loop(), name);
    if (const std::string_view method = find_method(value, name); !method.empty())
        return Value(Kind::kMethod, std::make_shared<const Method>(&runtime.budget, value, method));
    if (is_mutating_method(value, name)) return Value();
    if (is_unsupported_attribute(value, name))
        runtime.fail(in_quotes(name) + " of a value of type " + std::string(type_name(value)) +
                     " is not supported");
    return {};
}

std::optional<Value> indexed(Runtime& runtime, const Value& value, std::int64_t index) {
    if (!value.is_text() && !value.is_sequence() && !value.is(Kind::kRange)) return {};
    const std::int64_t length = length_of(value);
    if (value.is_text()) runtime.budget.touch(value.text().is_ascii ? 0 : value.text().bytes.size() * 2);
    if (index < 0) index += length;
    if (index < 0 || index >= length) return {};
    if (value.is_text()) return Value(character(runtime, value.text(), index));
    if (value.is(Kind::kRange)) return Value::integer(value.range().at(index));
    return value.list().items[static_cast<std::size_t>(index)];
}

std::optional<Value> python_item(Runtime& runtime, const Value& value, const Value& key) {
    if (value.is_undefined())
        return python_attribute(runtime, value, key.is_text() ? key.text().view() : "item");
    if (value.is(Kind::kDict)) {
        const Value* found = value.dict().find(runtime.budget, key);
        return found != nullptr ? std::optional<Value>(*found) : std::nullopt;
    }
    if (key.is_whole()) return indexed(runtime, value, key.whole());
    return {};
}

}  // namespace

Value get_attribute(Runtime& runtime, const Value& value, const std::string& name) {
    if (is_internal(name) && !value.is_undefined()) return Value::undefined(&name);
    if (auto found = python_attribute(runtime, value, name)) return *found;
    if (value.is(Kind::kDict)) {
        runtime.budget.step(static_cast<std::int64_t>(value.dict().entries.size() / 16));
        if (const Value* found = value.dict().find(name)) return *found;
    }
    return Value::undefined(&name);
}

Value get_item(Runtime& runtime, const Value& value, const Value& key) {
    if (auto found = python_item(runtime, value, key)) return *found;
    if (key.is_text() && !is_internal(key.text().view()))
        if (auto found = python_attribute(runtime, value, key.text().view())) return *found;
    return {};
}

Value get_slice(Runtime& runtime, const Value& value, const Value& start, const Value& stop,
                const Value& step) {
    if (value.is_undefined()) python_attribute(runtime, value, "slice");
    std::optional<std::int64_t> first, last, width;
    for (const auto& [part, out] : {std::pair{&start, &first}, {&stop, &last}, {&step, &width}}) {
        if (part->is(Kind::kNone)) continue;
        if (!part->is_whole())
            runtime.fail("a slice needs integers, not a value of type " + std::string(type_name(*part)));
        *out = part->whole();
    }
    if (!value.is_text() && !value.is_sequence() && !value.is(Kind::kRange))
        runtime.fail("a value of type " + std::string(type_name(value)) + " cannot be sliced");
    if (width == 0) runtime.fail("the step of a slice is zero");
    const std::int64_t stride = width.value_or(1);
    if (value.is_text()) return slice(runtime, value.text(), first, last, stride);
    const SliceRange range = clip_slice(length_of(value), first, last, stride);
    // With one item at most the stride says nothing, and its product might not fit.
    const std::int64_t safe_stride = range.count > 1 ? stride : 1;
    if (value.is(Kind::kRange)) {
        const Range& all = value.range();
        const std::int64_t begin = all.at(range.start), by = all.step * safe_stride;
        return {Kind::kRange, std::make_shared<const Range>(&runtime.budget, begin, begin + by * range.count,
                                                            by, range.count)};
    }
    runtime.budget.expect(static_cast<std::size_t>(range.count) * sizeof(Value));
    std::vector<Value> items;
    items.reserve(static_cast<std::size_t>(range.count));
    for (std::int64_t i = 0; i < range.count; ++i)
        items.push_back(value.list().items[static_cast<std::size_t>(range.start + i * safe_stride)]);
    return value.is(Kind::kList) ? runtime.list(std::move(items)) : runtime.tuple(std::move(items));
}

Value get_path(Runtime& runtime, const Value& value, const Value& path, const Value& otherwise) {
    const auto step = [&](const Value& at, const Value& key) {
        const Value found = get_item(runtime, at, key);
        return found.is_undefined() && !otherwise.is(Kind::kNone) ? otherwise : found;
    };
    if (!path.is_text()) return path.is(Kind::kNone) ? value : step(value, path);
    Value at = value;
    std::string_view rest = path.text().view();
    while (true) {
        const std::size_t dot = rest.find('.');
        const std::string_view part = rest.substr(0, dot);
        std::int64_t index = 0;
        const bool is_index = !part.empty() && std::all_of(part.begin(), part.end(),
                                                           [](char c) { return c >= '0' && c <= '9'; });
        if (is_index && std::from_chars(part.data(), part.data() + part.size(), index).ec != std::errc())
            runtime.fail("the index in an attribute is beyond 64 bits");
        at = step(at, is_index ? Value::integer(index) : runtime.text(part));
        if (dot == std::string_view::npos) return at;
        rest.remove_prefix(dot + 1);
    }
}

}  // namespace qlora::jinja
