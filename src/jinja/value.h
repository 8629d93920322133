#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text.h"

namespace qlora::jinja {

enum class Kind : std::uint8_t {
    kUndefined,
    kNone,
    kBoolean,
    kInteger,
    kFloat,
    kText,
    kList,
    kTuple,
    kDict,
    kView,  // what a dict's keys(), values() or items() gives
    kRange,
    kIterator,
    kNamespace,
    kLoop,
    kMacro,
    kMethod,
    kFunction,
};

struct List;
struct Dict;
struct Range;
struct Iterator;
struct Namespace;
struct Loop;
struct Method;
enum class Function : std::uint8_t { kNamespace, kRaiseException, kStrftimeNow, kRange, kDict };

/// A value of Python as templates see it. Copies share what they point to; only namespaces, loops and
/// iterators change.
class Value {
  public:
    Value() = default;  // undefined
    /// `name` is what was looked up, for messages; it must outlive the value.
    static Value undefined(const std::string* name = nullptr);
    static Value none(Mark mark = {});
    static Value boolean(bool value, Mark mark = {});
    static Value integer(std::int64_t value, Mark mark = {});
    static Value real(double value, Mark mark = {});
    static Value function(Function value);
    Value(TextPtr text) : Value(Kind::kText, std::move(text)) {}
    Value(Kind kind, std::shared_ptr<const Object> object) : kind_(kind), object_(std::move(object)) {}

    Kind kind() const { return kind_; }
    bool is(Kind kind) const { return kind_ == kind; }
    bool is_undefined() const { return kind_ == Kind::kUndefined; }
    bool is_text() const { return kind_ == Kind::kText; }
    bool is_whole() const { return kind_ == Kind::kInteger || kind_ == Kind::kBoolean; }
    bool is_number() const { return is_whole() || kind_ == Kind::kFloat; }
    bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }
    int depth() const { return object_ == nullptr ? 0 : object_->depth; }

    const std::string* name() const { return name_; }  // of an undefined value
    std::int64_t whole() const { return whole_; }      // of a boolean or an integer
    double real() const { return kind_ == Kind::kFloat ? real_ : static_cast<double>(whole_); }
    Function function() const { return function_; }
    /// Of a number, boolean or none that comes from the variables.
    Mark mark() const { return mark_; }

    const Text& text() const;
    TextPtr shared_text() const { return std::static_pointer_cast<const Text>(object_); }
    const List& list() const;  // of a list, tuple or view
    const Dict& dict() const;
    const Range& range() const;
    const Method& method() const;
    Iterator& iterator() const;
    Namespace& name_space() const;
    Loop& loop() const;
    const Object* identity() const { return object_.get(); }

  private:
    Kind kind_ = Kind::kUndefined;
    Mark mark_;
    union {
        std::int64_t whole_;
        double real_;
        Function function_;
        const std::string* name_ = nullptr;
    };
    std::shared_ptr<const Object> object_;
};

struct List : Object {
    List(Budget* budget, std::vector<Value> items_, std::string_view type = {});

    std::vector<Value> items;
    std::string_view view_type;  // "dict_keys" and so on
};

struct Dict : Object {
    using Entries = std::vector<std::pair<Value, Value>>;
    Dict(Budget* budget, Entries entries_);

    const Value* find(Budget& budget, const Value& key) const;
    const Value* find(std::string_view key) const;

    Entries entries;
};

struct Range : Object {
    Range(Budget* budget, std::int64_t start_, std::int64_t stop_, std::int64_t step_, std::int64_t count_)
        : Object(budget, sizeof(Range)), start(start_), stop(stop_), step(step_), count(count_) {}
    std::int64_t at(std::int64_t index) const { return start + index * step; }

    std::int64_t start, stop, step, count;
};

/// A generator: what it gave is gone.
struct Iterator : Object {
    Iterator(Budget* budget, int depth_) : Object(budget, 128, depth_) {}
    /// The next item, or false at the end.
    virtual bool next(Value& item) = 0;
};

struct Namespace : Object {
    explicit Namespace(Budget* budget) : Object(budget, sizeof(Namespace)), budget_(budget) {}
    const Value* find(std::string_view name) const;
    void set(const TextPtr& name, Value value);

    std::vector<std::pair<TextPtr, Value>> entries;
    bool is_printing = false;  // a namespace may hold itself

  private:
    Budget* budget_;
};

/// A function of a value, bound to it: `text.strip`, `dict.items`.
struct Method : Object {
    Method(Budget* budget, Value receiver_, std::string_view name_)
        : Object(budget, sizeof(Method), receiver_.depth() + 1),
          receiver(std::move(receiver_)),
          name(name_) {}

    Value receiver;
    std::string_view name;  // of the table of methods
};

/// The name that Python has for the kind in its messages: "str", "list", ...
std::string_view type_name(const Value& value);

/// Python's bool().
bool is_true(const Value& value);

}  // namespace qlora::jinja
