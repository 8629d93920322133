#include "value_tests.h"

#include <algorithm>
#include <array>
#include <optional>

#include "arithmetic.h"
#include "compare.h"
#include "iteration.h"
#include "messages.h"

namespace qlora::jinja {
namespace {

constexpr std::array<std::string_view, 14> kTestsOfOne = {
    "defined", "undefined", "none",   "boolean", "true",     "false",    "integer",
    "float",   "number",    "string", "mapping", "sequence", "iterable", "callable"};
constexpr std::array<std::string_view, 2> kTestsOfNumbers = {"odd", "even"};

struct NamedComparison {
    std::string_view name;
    Comparison comparison;
};
constexpr std::array<NamedComparison, 17> kTestsOfTwo = {{{"==", Comparison::kEqual},
                                                          {"eq", Comparison::kEqual},
                                                          {"equalto", Comparison::kEqual},
                                                          {"!=", Comparison::kNotEqual},
                                                          {"ne", Comparison::kNotEqual},
                                                          {">", Comparison::kGreater},
                                                          {"gt", Comparison::kGreater},
                                                          {"greaterthan", Comparison::kGreater},
                                                          {">=", Comparison::kGreaterEqual},
                                                          {"ge", Comparison::kGreaterEqual},
                                                          {"<", Comparison::kLess},
                                                          {"lt", Comparison::kLess},
                                                          {"lessthan", Comparison::kLess},
                                                          {"<=", Comparison::kLessEqual},
                                                          {"le", Comparison::kLessEqual},
                                                          {"in", Comparison::kIn},
                                                          {"divisibleby", Comparison::kEqual}}};

std::optional<Comparison> comparison_named(std::string_view name) {
    const auto found = std::find_if(kTestsOfTwo.begin(), kTestsOfTwo.end(),
                                    [&](const NamedComparison& test) { return test.name == name; });
    if (found == kTestsOfTwo.end()) return {};
    return found->comparison;
}

bool is_sequence_like(const Value& value) {
    switch (value.kind()) {
        case Kind::kUndefined:
        case Kind::kText:
        case Kind::kList:
        case Kind::kTuple:
        case Kind::kDict:
        case Kind::kRange:
            return true;
        default:
            return false;
    }
}

bool test_of_one(std::string_view name, const Value& value) {
    if (name == "defined") return !value.is_undefined();
    if (name == "undefined") return value.is_undefined();
    if (name == "none") return value.is(Kind::kNone);
    if (name == "boolean") return value.is(Kind::kBoolean);
    if (name == "true") return value.is(Kind::kBoolean) && value.whole() != 0;
    if (name == "false") return value.is(Kind::kBoolean) && value.whole() == 0;
    if (name == "integer") return value.is(Kind::kInteger);
    if (name == "float") return value.is(Kind::kFloat);
    if (name == "number") return value.is_number();
    if (name == "string") return value.is_text();
    if (name == "mapping") return value.is(Kind::kDict);
    if (name == "sequence") return is_sequence_like(value);
    if (name == "iterable") return is_iterable(value);
    // An undefined value defines a call too, one that fails.
    return value.is_undefined() || value.is(Kind::kMacro) || value.is(Kind::kMethod) ||
           value.is(Kind::kFunction) || value.is(Kind::kLoop);
}

bool leaves_remainder(Runtime& runtime, const Value& value, const Value& divisor, std::int64_t wanted) {
    const Value remainder = calculate(runtime, ExpressionKind::kModulo, value, divisor);
    return equal(runtime.budget, remainder, Value::integer(wanted));
}

}  // namespace

bool is_test(std::string_view name) {
    return std::find(kTestsOfOne.begin(), kTestsOfOne.end(), name) != kTestsOfOne.end() ||
           std::find(kTestsOfNumbers.begin(), kTestsOfNumbers.end(), name) != kTestsOfNumbers.end() ||
           comparison_named(name).has_value();
}

bool run_test(Runtime& runtime, std::string_view name, const Value& value, const Arguments& arguments) {
    runtime.budget.step();
    if (!is_test(name)) runtime.fail("the test " + in_quotes(name) + " is not supported");
    const std::string callee = "the test " + in_quotes(name);
    if (const auto comparison = comparison_named(name)) {
        const Parameters given(runtime, callee, arguments, {"other"}, 1);
        if (name == "divisibleby") return leaves_remainder(runtime, value, given[0], 0);
        return compare(runtime, *comparison, value, given[0]);
    }
    const Parameters none(runtime, callee, arguments, {});
    if (name == "odd" || name == "even")
        return leaves_remainder(runtime, value, Value::integer(2), name == "odd" ? 1 : 0);
    return test_of_one(name, value);
}

}  // namespace qlora::jinja
