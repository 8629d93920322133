#include "iteration.h"

#include <optional>

#include "qlora/core/code_points.h"

namespace qlora::jinja {
namespace {

// Looks at its source only when the first item is asked for, as a generator of Python does.
struct SteppingIterator : Iterator {
    SteppingIterator(Runtime& runtime, Value source, std::function<bool(Value&)> step)
        : Iterator(&runtime.budget, source.depth() + 1),
          runtime_(runtime),
          source_(std::move(source)),
          step_(std::move(step)) {}

    bool next(Value& item) override {
        if (!cursor_) cursor_.emplace(runtime_, source_);
        runtime_.check_stack();
        while (cursor_->next(item))
            if (step_(item)) return true;
        return false;
    }

  private:
    Runtime& runtime_;
    Value source_;
    std::optional<Cursor> cursor_;
    std::function<bool(Value&)> step_;
};

}  // namespace

bool is_iterable(const Value& value) {
    switch (value.kind()) {
        case Kind::kUndefined:
        case Kind::kText:
        case Kind::kList:
        case Kind::kTuple:
        case Kind::kDict:
        case Kind::kView:
        case Kind::kRange:
        case Kind::kIterator:
        case Kind::kLoop:
            return true;
        default:
            return false;
    }
}

Cursor::Cursor(Runtime& runtime, Value source) : runtime_(runtime), source_(std::move(source)) {
    if (!is_iterable(source_) || source_.is(Kind::kLoop))
        runtime.fail("a value of type " + std::string(type_name(source_)) + " cannot be looped over");
}

bool Cursor::next(Value& item) {
    runtime_.budget.step();
    switch (source_.kind()) {
        case Kind::kList:
        case Kind::kTuple:
        case Kind::kView:
            if (place_ >= source_.list().items.size()) return false;
            item = source_.list().items[place_++];
            return true;
        case Kind::kDict:
            if (place_ >= source_.dict().entries.size()) return false;
            item = source_.dict().entries[place_++].first;
            return true;
        case Kind::kRange:
            if (place_ >= static_cast<std::size_t>(source_.range().count)) return false;
            item = Value::integer(source_.range().at(static_cast<std::int64_t>(place_++)));
            return true;
        case Kind::kText: {
            const Text& text = source_.text();
            if (place_ >= text.bytes.size()) return false;
            const std::size_t end = place_ + utf8_length(text.bytes[place_]);
            TextBuilder out(runtime_.budget);
            out.append(text, place_, end);
            item = out.finish();  // Markup gives plain characters
            place_ = end;
            return true;
        }
        case Kind::kIterator:
            return source_.iterator().next(item);
        default:
            return false;
    }
}

std::vector<Value> items_of(Runtime& runtime, const Value& value) {
    if (value.is_sequence() || value.is(Kind::kView)) return value.list().items;
    Cursor cursor(runtime, value);
    Charge charge(&runtime.budget);
    std::vector<Value> items;
    for (Value item; cursor.next(item);) {
        if (items.size() == items.capacity()) charge.change_to(sizeof(Value) * 2 * (items.size() + 1));
        items.push_back(item);
        if (!value.is(Kind::kDict)) runtime.budget.check_items(items.size());
    }
    return items;
}

std::int64_t length_of(const Value& value) {
    switch (value.kind()) {
        case Kind::kUndefined:
            return 0;
        case Kind::kText:
            return static_cast<std::int64_t>(value.text().length());
        case Kind::kList:
        case Kind::kTuple:
        case Kind::kView:
            return static_cast<std::int64_t>(value.list().items.size());
        case Kind::kDict:
            return static_cast<std::int64_t>(value.dict().entries.size());
        case Kind::kRange:
            return value.range().count;
        case Kind::kLoop:
            return value.loop().length();
        default:
            return -1;
    }
}

Value make_iterator(Runtime& runtime, const Value& source, std::function<bool(Value&)> step) {
    return {Kind::kIterator, std::make_shared<SteppingIterator>(runtime, source, std::move(step))};
}

Value make_iterator(Runtime& runtime, std::vector<Value> items) {
    return make_iterator(runtime, runtime.list(std::move(items)), [](Value&) { return true; });
}

Loop::Loop(Runtime& runtime, const Value& source, Filter filter)
    : Object(&runtime.budget, sizeof(Loop), source.depth() + 1),
      cursor_(runtime, source),
      filter_(std::move(filter)) {}

bool Loop::draw(Value& out) {
    while (cursor_.next(out))
        if (!filter_ || filter_(out)) return true;
    return false;
}

bool Loop::prefetch(std::size_t count) {
    for (Value next; ahead_.size() < count; ahead_.push_back(next))
        if (!draw(next)) return false;
    return true;
}

bool Loop::advance() {
    Value next;
    if (!ahead_.empty()) {
        next = ahead_.front();
        ahead_.pop_front();
    } else if (!draw(next)) {
        return false;
    }
    if (index >= 0) previous = item;
    item = std::move(next);
    ++index;
    return true;
}

void Loop::close() {
    filter_ = [](const Value&) { return false; };
}

std::int64_t Loop::length() {
    prefetch(ahead_.max_size());
    return index + 1 + static_cast<std::int64_t>(ahead_.size());
}

}  // namespace qlora::jinja
