#include "compare.h"

#include <algorithm>
#include <string>

namespace qlora::jinja {
namespace {

bool equal_numbers(const Value& a, const Value& b) {
    if (a.is_whole() && b.is_whole()) return a.whole() == b.whole();
    // 64 bits of mantissa: an integer stays exact.
    const auto wide = [](const Value& v) {
        return v.is_whole() ? static_cast<long double>(v.whole()) : static_cast<long double>(v.real());
    };
    return wide(a) == wide(b);
}

bool less_numbers(const Value& a, const Value& b) {
    if (a.is_whole() && b.is_whole()) return a.whole() < b.whole();
    const auto wide = [](const Value& v) {
        return v.is_whole() ? static_cast<long double>(v.whole()) : static_cast<long double>(v.real());
    };
    return wide(a) < wide(b);
}

bool equal_lists(Budget& budget, const List& a, const List& b) {
    if (a.items.size() != b.items.size()) return false;
    for (std::size_t i = 0; i < a.items.size(); ++i)
        if (!equal(budget, a.items[i], b.items[i])) return false;
    return true;
}

bool equal_dicts(Budget& budget, const Dict& a, const Dict& b) {
    if (a.entries.size() != b.entries.size()) return false;
    for (const auto& [key, value] : a.entries) {
        const Value* other = b.find(budget, key);
        if (other == nullptr || !equal(budget, value, *other)) return false;
    }
    return true;
}

bool equal_ranges(const Range& a, const Range& b) {
    return a.count == b.count && (a.count == 0 || a.start == b.start) && (a.count <= 1 || a.step == b.step);
}

}  // namespace

bool equal(Budget& budget, const Value& a, const Value& b) {
    budget.step();
    if (a.is_number() && b.is_number()) return equal_numbers(a, b);
    if (a.kind() != b.kind()) return false;
    switch (a.kind()) {
        case Kind::kUndefined:
        case Kind::kNone:
            return true;
        case Kind::kText:
            budget.touch(std::min(a.text().bytes.size(), b.text().bytes.size()));
            return a.text().bytes == b.text().bytes;
        case Kind::kList:
        case Kind::kTuple:
            return a.identity() == b.identity() || equal_lists(budget, a.list(), b.list());
        case Kind::kDict:
            return a.identity() == b.identity() || equal_dicts(budget, a.dict(), b.dict());
        case Kind::kRange:
            return equal_ranges(a.range(), b.range());
        case Kind::kFunction:
            return a.function() == b.function();
        case Kind::kView:
            if (a.identity() == b.identity()) return true;
            budget.fail("comparing keys() or items() of dicts is not supported: use |list");
        default:
            return a.identity() == b.identity();
    }
}

bool less(Budget& budget, const Value& a, const Value& b) {
    budget.step();
    if (a.is_number() && b.is_number()) return less_numbers(a, b);
    if (a.is_text() && b.is_text()) {
        budget.touch(std::min(a.text().bytes.size(), b.text().bytes.size()));
        return a.text().bytes < b.text().bytes;  // the order of UTF-8 is that of code points
    }
    if (a.is_sequence() && a.kind() == b.kind()) {
        const auto &left = a.list().items, &right = b.list().items;
        for (std::size_t i = 0; i < std::min(left.size(), right.size()); ++i)
            if (!equal(budget, left[i], right[i])) return less(budget, left[i], right[i]);
        return left.size() < right.size();
    }
    budget.fail("values of types " + std::string(type_name(a)) + " and " + std::string(type_name(b)) +
                " have no order");
}

void check_hashable(Budget& budget, const Value& value) {
    if (value.is(Kind::kTuple))
        for (const Value& item : value.list().items) check_hashable(budget, item);
    if (value.is(Kind::kList) || value.is(Kind::kDict) || value.is(Kind::kView))
        budget.fail("a value of type " + std::string(type_name(value)) + " cannot be a key");
}

}  // namespace qlora::jinja
