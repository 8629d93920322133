#include "sequence_filters.h"

#include <algorithm>
#include <functional>

#include "access.h"
#include "case_mapping.h"
#include "compare.h"
#include "filters.h"
#include "iteration.h"
#include "messages.h"
#include "text_operations.h"
#include "value_tests.h"

namespace qlora::jinja {
namespace {

Value without_case(Runtime& runtime, const Value& value) {
    return value.is_text() ? Value(lower(runtime, value.text())) : value;
}

// Sorts by keys that are made once; stable, also in reverse.
std::vector<Value> sorted_by(Runtime& runtime, std::vector<Value> items, bool in_reverse,
                             const std::function<Value(const Value&)>& key_of) {
    struct Keyed {
        Value key, item;
    };
    const Charge charge(&runtime.budget, items.size() * 2 * sizeof(Keyed));
    std::vector<Keyed> keyed;
    keyed.reserve(items.size());
    for (const Value& item : items) keyed.push_back({key_of(item), item});
    std::stable_sort(keyed.begin(), keyed.end(), [&](const Keyed& a, const Keyed& b) {
        return in_reverse ? less(runtime.budget, b.key, a.key) : less(runtime.budget, a.key, b.key);
    });
    for (std::size_t i = 0; i < items.size(); ++i) items[i] = std::move(keyed[i].item);
    return items;
}

// "a,b.c" names several attributes.
std::vector<Value> paths_of(Runtime& runtime, const Value& attribute) {
    if (!attribute.is_text()) return {attribute};
    return split(runtime, attribute.text(), &runtime.text(",").text(), -1);
}

// The value that an item is compared by: itself or an attribute of it, without case unless asked.
Value comparison_key(Runtime& runtime, const Value& item, const Value& attribute, bool with_case) {
    const Value chosen = get_path(runtime, item, attribute);
    return with_case ? chosen : without_case(runtime, chosen);
}

Value extreme(Runtime& runtime, std::string_view callee, const Value& value, const Arguments& arguments,
              bool is_largest) {
    const Parameters given(runtime, callee, arguments, {"case_sensitive", "attribute"});
    const Value attribute = given.has(1) ? given[1] : Value::none();
    const bool with_case = given.truth(0, false);
    Cursor cursor(runtime, value);
    Value best, best_key, item;
    for (bool is_first = true; cursor.next(item); is_first = false) {
        const Value key = comparison_key(runtime, item, attribute, with_case);
        const bool is_better = is_first || (is_largest ? less(runtime.budget, best_key, key)
                                                       : less(runtime.budget, key, best_key));
        if (!is_better) continue;
        best = item;
        best_key = key;
    }
    return best;
}

// select, reject, selectattr, rejectattr: a test's name and its arguments, behind the attribute's path if
// there is one.
Value chosen(Runtime& runtime, const Value& value, const Arguments& arguments, bool by_attribute,
             bool wanted) {
    if (!is_true(value)) return make_iterator(runtime, std::vector<Value>());
    const std::size_t test_at = by_attribute ? 1 : 0;
    if (by_attribute && arguments.positional.empty())
        runtime.fail("selectattr and rejectattr need the name of an attribute");
    Arguments rest;
    rest.named = arguments.named;
    std::string test;
    if (arguments.positional.size() > test_at) {
        if (!arguments.positional[test_at].is_text()) runtime.fail("the name of a test must be a string");
        test = arguments.positional[test_at].text().bytes;
        rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(test_at) + 1,
                               arguments.positional.end());
    }
    const bool has_test = arguments.positional.size() > test_at;
    const Value path = by_attribute ? arguments.positional[0] : Value::none();
    return make_iterator(runtime, value, [&runtime, rest, test, has_test, path, wanted](Value& item) {
        const Value tested = get_path(runtime, item, path);
        return (has_test ? run_test(runtime, test, tested, rest) : is_true(tested)) == wanted;
    });
}

}  // namespace

Value dictsort_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters given(runtime, "the filter 'dictsort'", arguments, {"case_sensitive", "by", "reverse"});
    if (!value.is(Kind::kDict)) runtime.fail("the filter 'dictsort' needs a dict");
    const std::string by = given.has(1) ? given.text(1).bytes : "key";
    if (by != "key" && by != "value") runtime.fail("the filter 'dictsort' sorts by 'key' or 'value'");
    std::vector<Value> items;
    for (const auto& [key, item] : value.dict().entries) items.push_back(runtime.tuple({key, item}));
    const bool with_case = given.truth(0, false);
    const auto key_of = [&](const Value& pair) {
        const Value& chosen_part = pair.list().items[by == "key" ? 0 : 1];
        return with_case ? chosen_part : without_case(runtime, chosen_part);
    };
    return runtime.list(sorted_by(runtime, std::move(items), given.truth(2, false), key_of));
}

Value first_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters none(runtime, "the filter 'first'", arguments, {});
    Cursor cursor(runtime, value);
    Value item;
    return cursor.next(item) ? item : Value();
}

Value items_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters none(runtime, "the filter 'items'", arguments, {});
    if (value.is_undefined()) return make_iterator(runtime, std::vector<Value>());
    // Over the keys of a dict. What is no dict is refused when the first pair is asked for.
    const Value keys = value.is(Kind::kDict) ? value : runtime.list({Value()});
    return make_iterator(runtime, keys, [&runtime, value](Value& item) {
        if (!value.is(Kind::kDict))
            runtime.fail("the filter 'items' needs a dict, not a value of type " +
                         std::string(type_name(value)));
        item = runtime.tuple({item, *value.dict().find(runtime.budget, item)});
        return true;
    });
}

Value last_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters none(runtime, "the filter 'last'", arguments, {});
    if (value.is(Kind::kIterator))
        runtime.fail("the filter 'last' cannot take a generator: use |list before it");
    const std::vector<Value> items = items_of(runtime, value);
    return items.empty() ? Value() : items.back();
}

Value length_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters none(runtime, "the filter 'length'", arguments, {});
    const std::int64_t length = length_of(value);
    if (length < 0) runtime.fail("a value of type " + std::string(type_name(value)) + " has no length");
    if (value.is_text()) runtime.budget.touch(value.text().bytes.size());
    return Value::integer(length);
}

Value list_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters none(runtime, "the filter 'list'", arguments, {});
    return runtime.list(items_of(runtime, value));
}

Value map_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    if (!is_true(value)) return make_iterator(runtime, std::vector<Value>());
    if (arguments.positional.empty()) {
        const Parameters given(runtime, "the filter 'map'", arguments, {"attribute", "default"});
        if (!given.has(0)) runtime.fail("the filter 'map' needs the name of a filter, or attribute=");
        const Value path = given[0];
        const Value otherwise = given.has(1) ? given[1] : Value::none();
        return make_iterator(runtime, value, [&runtime, path, otherwise](Value& item) {
            item = get_path(runtime, item, path, otherwise);
            return true;
        });
    }
    const Value filter = arguments.positional.front();
    Arguments rest = arguments;
    rest.positional.erase(rest.positional.begin());
    return make_iterator(runtime, value, [&runtime, filter, rest](Value& item) {
        if (!filter.is_text()) runtime.fail("the name of a filter must be a string");
        item = run_filter(runtime, filter.text().view(), item, rest);
        return true;
    });
}

Value max_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    return extreme(runtime, "the filter 'max'", value, arguments, true);
}

Value min_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    return extreme(runtime, "the filter 'min'", value, arguments, false);
}

Value reject_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    return chosen(runtime, value, arguments, false, false);
}

Value rejectattr_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    return chosen(runtime, value, arguments, true, false);
}

Value select_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    return chosen(runtime, value, arguments, false, true);
}

Value selectattr_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    return chosen(runtime, value, arguments, true, true);
}

Value reverse_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters none(runtime, "the filter 'reverse'", arguments, {});
    if (value.is_text()) return slice(runtime, value.text(), {}, {}, -1);
    std::vector<Value> items = items_of(runtime, value);
    std::reverse(items.begin(), items.end());
    // What Python cannot walk backwards becomes a list there.
    if (value.is(Kind::kIterator)) return runtime.list(std::move(items));
    return make_iterator(runtime, std::move(items));
}

Value sort_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters given(runtime, "the filter 'sort'", arguments,
                           {"reverse", "case_sensitive", "attribute"});
    const std::vector<Value> paths = paths_of(runtime, given.has(2) ? given[2] : Value::none());
    const bool with_case = given.truth(1, false);
    const auto key_of = [&](const Value& item) {
        std::vector<Value> keys;
        for (const Value& path : paths) keys.push_back(comparison_key(runtime, item, path, with_case));
        return runtime.list(std::move(keys));
    };
    return runtime.list(sorted_by(runtime, items_of(runtime, value), given.truth(0, false), key_of));
}

Value unique_filter(Runtime& runtime, const Value& value, const Arguments& arguments) {
    const Parameters given(runtime, "the filter 'unique'", arguments, {"case_sensitive", "attribute"});
    const bool with_case = given.truth(0, false);
    const Value attribute = given.has(1) ? given[1] : Value::none();
    const auto seen = std::make_shared<std::vector<Value>>();
    return make_iterator(runtime, value, [&runtime, with_case, attribute, seen](Value& item) {
        const Value key = comparison_key(runtime, item, attribute, with_case);
        check_hashable(runtime.budget, key);
        for (const Value& other : *seen)
            if (equal(runtime.budget, other, key)) return false;
        seen->push_back(key);
        return true;
    });
}

}  // namespace qlora::jinja
