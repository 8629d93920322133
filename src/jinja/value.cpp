#include "value.h"

#include <algorithm>

#include "compare.h"
#include "iteration.h"

namespace qlora::jinja {
namespace {

int depth_of_items(const std::vector<Value>& items) {
    int depth = 0;
    for (const Value& item : items) depth = std::max(depth, item.depth());
    return depth + 1;
}

int depth_of_entries(const Dict::Entries& entries) {
    int depth = 0;
    for (const auto& [key, value] : entries) depth = std::max({depth, key.depth(), value.depth()});
    return depth + 1;
}

}  // namespace

Value Value::undefined(const std::string* name) {
    Value out;
    out.name_ = name;
    return out;
}

Value Value::none(Mark mark) {
    Value out;
    out.kind_ = Kind::kNone;
    out.mark_ = mark;
    return out;
}

Value Value::boolean(bool value, Mark mark) {
    Value out;
    out.kind_ = Kind::kBoolean;
    out.whole_ = value ? 1 : 0;
    out.mark_ = mark;
    return out;
}

Value Value::integer(std::int64_t value, Mark mark) {
    Value out;
    out.kind_ = Kind::kInteger;
    out.whole_ = value;
    out.mark_ = mark;
    return out;
}

Value Value::real(double value, Mark mark) {
    Value out;
    out.kind_ = Kind::kFloat;
    out.real_ = value;
    out.mark_ = mark;
    return out;
}

Value Value::function(Function value) {
    Value out;
    out.kind_ = Kind::kFunction;
    out.function_ = value;
    return out;
}

const Text& Value::text() const {
    return static_cast<const Text&>(*object_);
}
const List& Value::list() const {
    return static_cast<const List&>(*object_);
}
const Dict& Value::dict() const {
    return static_cast<const Dict&>(*object_);
}
const Range& Value::range() const {
    return static_cast<const Range&>(*object_);
}
const Method& Value::method() const {
    return static_cast<const Method&>(*object_);
}
Iterator& Value::iterator() const {
    return const_cast<Iterator&>(static_cast<const Iterator&>(*object_));
}
Namespace& Value::name_space() const {
    return const_cast<Namespace&>(static_cast<const Namespace&>(*object_));
}
Loop& Value::loop() const {
    return const_cast<Loop&>(static_cast<const Loop&>(*object_));
}

List::List(Budget* budget, std::vector<Value> items_, std::string_view type)
    : Object(budget, sizeof(List) + items_.capacity() * sizeof(Value), depth_of_items(items_)),
      items(std::move(items_)),
      view_type(type) {
    if (budget != nullptr) budget->step(static_cast<std::int64_t>(items.size() / 8));
}

Dict::Dict(Budget* budget, Entries entries_)
    : Object(budget, sizeof(Dict) + entries_.capacity() * 2 * sizeof(Value), depth_of_entries(entries_)),
      entries(std::move(entries_)) {}

const Value* Dict::find(std::string_view key) const {
    for (const auto& [name, value] : entries)
        if (name.is_text() && name.text().bytes == key) return &value;
    return nullptr;
}

const Value* Dict::find(Budget& budget, const Value& key) const {
    budget.step(static_cast<std::int64_t>(entries.size() / 16));
    if (key.is_text()) return find(key.text().view());
    for (const auto& [name, value] : entries)
        if (equal(budget, name, key)) return &value;
    return nullptr;
}

const Value* Namespace::find(std::string_view name) const {
    for (const auto& [key, value] : entries)
        if (key->bytes == name) return &value;
    return nullptr;
}

void Namespace::set(const TextPtr& name, Value value) {
    for (auto& [key, old] : entries) {
        if (key->bytes != name->bytes) continue;
        old = std::move(value);
        return;
    }
    charge.change_to(sizeof(Namespace) + (entries.size() + 1) * (sizeof(Value) + sizeof(TextPtr)));
    entries.emplace_back(name, std::move(value));
}

std::string_view type_name(const Value& value) {
    switch (value.kind()) {
        case Kind::kUndefined:
            return "undefined";
        case Kind::kNone:
            return "none";
        case Kind::kBoolean:
            return "bool";
        case Kind::kInteger:
            return "int";
        case Kind::kFloat:
            return "float";
        case Kind::kText:
            return "str";
        case Kind::kList:
            return "list";
        case Kind::kTuple:
            return "tuple";
        case Kind::kDict:
            return "dict";
        case Kind::kView:
            return value.list().view_type;
        case Kind::kRange:
            return "range";
        case Kind::kIterator:
            return "generator";
        case Kind::kNamespace:
            return "namespace";
        case Kind::kLoop:
            return "loop";
        case Kind::kMacro:
            return "macro";
        case Kind::kMethod:
            return "method";
        case Kind::kFunction:
            return "function";
    }
    return "?";
}

bool is_true(const Value& value) {
    switch (value.kind()) {
        case Kind::kUndefined:
        case Kind::kNone:
            return false;
        case Kind::kBoolean:
        case Kind::kInteger:
            return value.whole() != 0;
        case Kind::kFloat:
            return value.real() != 0;
        case Kind::kText:
            return !value.text().bytes.empty();
        case Kind::kList:
        case Kind::kTuple:
        case Kind::kView:
            return !value.list().items.empty();
        case Kind::kDict:
            return !value.dict().entries.empty();
        case Kind::kRange:
            return value.range().count != 0;
        case Kind::kLoop:
            return value.loop().length() != 0;
        default:
            return true;
    }
}

}  // namespace qlora::jinja
