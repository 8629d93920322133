#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <vector>

#include "runtime.h"

namespace qlora::jinja {

/// Walks over what Python's iter() accepts. Fails at once for other values.
class Cursor {
  public:
    Cursor(Runtime& runtime, Value source);
    /// False at the end.
    bool next(Value& item);

  private:
    Runtime& runtime_;
    Value source_;
    std::size_t place_ = 0;
};

bool is_iterable(const Value& value);
/// Python's list().
std::vector<Value> items_of(Runtime& runtime, const Value& value);
/// Python's len(), or -1 for values that have none.
std::int64_t length_of(const Value& value);

/// An iterator over the items of a value for which `step` gives something: it changes the item, or says false
/// to leave it out.
Value make_iterator(Runtime& runtime, const Value& source, std::function<bool(Value&)> step);
/// An iterator over items that are there already.
Value make_iterator(Runtime& runtime, std::vector<Value> items);

/// The state of a {% for %}, which its body sees as `loop`. Items that the filter leaves out count nowhere,
/// and the filter sees an item only when that one is asked for.
struct Loop : Object {
    using Filter = std::function<bool(const Value&)>;
    Loop(Runtime& runtime, const Value& source, Filter filter);

    /// Goes to the next item; false at the end.
    bool advance();
    /// The loop is over: what asks for more items later gets none.
    void close();
    bool has_next() { return prefetch(1); }
    const Value& next_item() { return ahead_.front(); }
    std::int64_t length();

    Value item;
    Value previous;
    std::int64_t index = -1;  // from 0

  private:
    bool prefetch(std::size_t count);
    bool draw(Value& out);

    Cursor cursor_;
    Filter filter_;
    std::deque<Value> ahead_;
};

}  // namespace qlora::jinja
