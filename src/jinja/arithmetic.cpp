#include "arithmetic.h"

#include <cmath>

#include "compare.h"
#include "iteration.h"
#include "messages.h"
#include "text_operations.h"

namespace qlora::jinja {
namespace {

std::string_view symbol(ExpressionKind operation) {
    switch (operation) {
        case ExpressionKind::kAdd:
            return "+";
        case ExpressionKind::kSubtract:
            return "-";
        case ExpressionKind::kMultiply:
            return "*";
        case ExpressionKind::kDivide:
            return "/";
        case ExpressionKind::kFloorDivide:
            return "//";
        default:
            return "%";
    }
}

[[noreturn]] void too_large(Runtime& runtime) {
    runtime.fail("an integer grows beyond 64 bits");
}

Value whole_result(Runtime& runtime, ExpressionKind operation, std::int64_t a, std::int64_t b) {
    std::int64_t out = 0;
    bool overflows = false;
    switch (operation) {
        case ExpressionKind::kAdd:
            overflows = __builtin_add_overflow(a, b, &out);
            break;
        case ExpressionKind::kSubtract:
            overflows = __builtin_sub_overflow(a, b, &out);
            break;
        case ExpressionKind::kMultiply:
            overflows = __builtin_mul_overflow(a, b, &out);
            break;
        default: {
            if (b == 0) runtime.fail("division by zero");
            if (b == -1) {  // the quotient of the least integer does not fit
                overflows = operation == ExpressionKind::kFloorDivide &&
                            __builtin_sub_overflow(std::int64_t{0}, a, &out);
                break;
            }
            const std::int64_t remainder = a % b;
            const bool rounds_down = remainder != 0 && (remainder < 0) != (b < 0);
            out = operation == ExpressionKind::kModulo ? remainder + (rounds_down ? b : 0)
                                                       : a / b - (rounds_down ? 1 : 0);
        }
    }
    if (overflows) too_large(runtime);
    return Value::integer(out);
}

double real_result(Runtime& runtime, ExpressionKind operation, double a, double b) {
    switch (operation) {
        case ExpressionKind::kAdd:
            return a + b;
        case ExpressionKind::kSubtract:
            return a - b;
        case ExpressionKind::kMultiply:
            return a * b;
        default:
            break;
    }
    if (b == 0) runtime.fail("division by zero");
    if (operation == ExpressionKind::kDivide) return a / b;
    double remainder = std::fmod(a, b);
    if (remainder != 0) {
        if ((remainder < 0) != (b < 0)) remainder += b;
    } else {
        remainder = std::copysign(0.0, b);
    }
    if (operation == ExpressionKind::kModulo) return remainder;
    // Python rounds the quotient of what is divisible.
    double quotient = (a - std::fmod(a, b)) / b;
    if (std::fmod(a, b) != 0 && (std::fmod(a, b) < 0) != (b < 0)) quotient -= 1;
    if (quotient == 0) return std::copysign(0.0, a / b);
    const double floor = std::floor(quotient);
    return quotient - floor > 0.5 ? floor + 1 : floor;
}

Value concatenated(Runtime& runtime, const Value& a, const Value& b) {
    if (a.is_text()) {
        const bool is_markup = a.text().is_markup || b.text().is_markup;
        if (!is_markup) return concatenate(runtime, a.text(), b.text());
        return concatenate(runtime, *escape_markup(runtime, a.text()), *escape_markup(runtime, b.text()),
                           true);
    }
    const std::vector<Value>&left = a.list().items, &right = b.list().items;
    runtime.budget.check_items(left.size() + right.size());
    runtime.budget.expect((left.size() + right.size()) * sizeof(Value));
    std::vector<Value> items;
    items.reserve(left.size() + right.size());
    items.insert(items.end(), left.begin(), left.end());
    items.insert(items.end(), right.begin(), right.end());
    return a.is(Kind::kList) ? runtime.list(std::move(items)) : runtime.tuple(std::move(items));
}

Value repeated(Runtime& runtime, const Value& value, std::int64_t times) {
    if (value.is_text()) return repeat(runtime, value.text(), times);
    const std::vector<Value>& items = value.list().items;
    std::vector<Value> out;
    if (times > 0 && !items.empty()) {
        const auto most = static_cast<std::int64_t>(runtime.budget.limits().list_items);
        runtime.budget.check_items(times > most ? static_cast<std::size_t>(most) + 1
                                                : items.size() * static_cast<std::size_t>(times));
        for (; times > 0; --times) out.insert(out.end(), items.begin(), items.end());
    }
    return value.is(Kind::kList) ? runtime.list(std::move(out)) : runtime.tuple(std::move(out));
}

}  // namespace

Value calculate(Runtime& runtime, ExpressionKind operation, const Value& a, const Value& b) {
    if (a.is_number() && b.is_number()) {
        if (a.is_whole() && b.is_whole() && operation != ExpressionKind::kDivide)
            return whole_result(runtime, operation, a.whole(), b.whole());
        return Value::real(real_result(runtime, operation, a.real(), b.real()));
    }
    const auto repeats = [](const Value& v) { return v.is_text() || v.is_sequence(); };
    if (operation == ExpressionKind::kAdd && repeats(a) && a.kind() == b.kind())
        return concatenated(runtime, a, b);
    if (operation == ExpressionKind::kMultiply && repeats(a) && b.is_whole())
        return repeated(runtime, a, b.whole());
    if (operation == ExpressionKind::kMultiply && repeats(b) && a.is_whole())
        return repeated(runtime, b, a.whole());
    if (operation == ExpressionKind::kModulo && a.is_text())
        runtime.fail("the operator '%' on a string is not supported");
    for (const Value* side : {&a, &b})
        if (side->is_undefined() && side->name() != nullptr)
            runtime.fail(in_quotes(*side->name()) + " is undefined");
    runtime.fail("the operator '" + std::string(symbol(operation)) + "' cannot take values of types " +
                 std::string(type_name(a)) + " and " + std::string(type_name(b)));
}

Value negate(Runtime& runtime, const Value& value) {
    if (value.is(Kind::kFloat)) return Value::real(-value.real());
    if (!value.is_whole())
        runtime.fail("the sign '-' cannot stand before a value of type " + std::string(type_name(value)));
    return whole_result(runtime, ExpressionKind::kSubtract, 0, value.whole());
}

Value plus(Runtime& runtime, const Value& value) {
    if (value.is(Kind::kFloat)) return value;
    if (!value.is_whole())
        runtime.fail("the sign '+' cannot stand before a value of type " + std::string(type_name(value)));
    return Value::integer(value.whole());
}

bool contains(Runtime& runtime, const Value& container, const Value& item) {
    switch (container.kind()) {
        case Kind::kText:
            if (!item.is_text())
                runtime.fail("'in' of a string needs a string, not a value of type " +
                             std::string(type_name(item)));
            return find_text(runtime.budget, container.text().view(), item.text().view()) !=
                   std::string_view::npos;
        case Kind::kDict:
            check_hashable(runtime.budget, item);
            return container.dict().find(runtime.budget, item) != nullptr;
        default:
            break;
    }
    Cursor cursor(runtime, container);
    for (Value other; cursor.next(other);)
        if ((other.identity() != nullptr && other.identity() == item.identity()) ||
            equal(runtime.budget, other, item))
            return true;
    return false;
}

bool compare(Runtime& runtime, Comparison comparison, const Value& a, const Value& b) {
    switch (comparison) {
        case Comparison::kEqual:
            return equal(runtime.budget, a, b);
        case Comparison::kNotEqual:
            return !equal(runtime.budget, a, b);
        case Comparison::kLess:
            return less(runtime.budget, a, b);
        case Comparison::kGreater:
            return less(runtime.budget, b, a);
        case Comparison::kIn:
            return contains(runtime, b, a);
        case Comparison::kNotIn:
            return !contains(runtime, b, a);
        case Comparison::kLessEqual:
        case Comparison::kGreaterEqual:
            break;
    }
    // Not the opposite of the other order: no comparison with a NaN holds.
    const bool is_less =
        comparison == Comparison::kLessEqual ? less(runtime.budget, a, b) : less(runtime.budget, b, a);
    return is_less || equal(runtime.budget, a, b);
}

}  // namespace qlora::jinja
