// The renderer's expressions.
#include <optional>
#include <utility>
#include <vector>

#include "access.h"
#include "arithmetic.h"
#include "compare.h"
#include "filters.h"
#include "functions.h"
#include "messages.h"
#include "methods.h"
#include "print.h"
#include "renderer.h"
#include "value_tests.h"

namespace qlora::jinja {

Value Renderer::evaluate(const Expression& expression) {
    runtime_.check_stack();
    runtime_.budget.set_line(expression.line);
    runtime_.budget.step();
    const auto operand = [&](std::size_t index) { return evaluate(*expression.operands[index]); };
    switch (expression.kind) {
        case ExpressionKind::kConstant:
            return expression.constant;
        case ExpressionKind::kName:
            return look_up(expression);
        case ExpressionKind::kList:
        case ExpressionKind::kTuple:
            return evaluate_items(expression);
        case ExpressionKind::kDict:
            return evaluate_dict(expression);
        case ExpressionKind::kAttribute:
            return get_attribute(runtime_, operand(0), expression.name);
        case ExpressionKind::kItem:
        case ExpressionKind::kSlice:
            return evaluate_item(expression);
        case ExpressionKind::kCall:
            return evaluate_call(expression);
        case ExpressionKind::kFilter:
            return evaluate_filters(expression, nullptr);
        case ExpressionKind::kTest: {
            const Value value = operand(0);
            return Value::boolean(run_test(runtime_, expression.name, value, evaluate_arguments(expression)));
        }
        case ExpressionKind::kConditional:
            return evaluate_conditional(expression);
        case ExpressionKind::kAnd: {
            const Value left = operand(0);
            return is_true(left) ? operand(1) : left;
        }
        case ExpressionKind::kOr: {
            const Value left = operand(0);
            return is_true(left) ? left : operand(1);
        }
        case ExpressionKind::kNot:
            return Value::boolean(!is_true(operand(0)));
        case ExpressionKind::kNegative:
            return negate(runtime_, operand(0));
        case ExpressionKind::kPositive:
            return plus(runtime_, operand(0));
        case ExpressionKind::kConcatenate:
            return evaluate_concatenation(expression);
        case ExpressionKind::kCompare:
            return evaluate_compare(expression);
        case ExpressionKind::kAdd:
            return evaluate_sum(expression);
        default: {
            const Value left = operand(0);
            const Value right = operand(1);
            return calculate(runtime_, expression.kind, left, right);
        }
    }
}

Value Renderer::evaluate_or_none(const ExpressionPtr& expression) {
    return expression == nullptr ? Value::none() : evaluate(*expression);
}

Value Renderer::look_up(const Expression& name) {
    for (Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent) {
        runtime_.budget.step(static_cast<std::int64_t>(scope->variables.size() / 16));
        if (const Value* found = scope->find(name.name)) return *found;
    }
    for (const Variables* variables : {&read_, &std::as_const(own_)})
        for (const auto& [key, value] : *variables)
            if (key == name.name) return value;
    if (const auto function = find_function(name.name)) return Value::function(*function);
    return Value::undefined(&name.name);
}

Value Renderer::evaluate_items(const Expression& expression) {
    std::vector<Value> items;
    items.reserve(expression.operands.size());
    for (const auto& operand : expression.operands) items.push_back(evaluate(*operand));
    return expression.kind == ExpressionKind::kList ? runtime_.list(std::move(items))
                                                    : runtime_.tuple(std::move(items));
}

Value Renderer::evaluate_dict(const Expression& expression) {
    Dict::Entries entries;
    for (std::size_t i = 0; i < expression.operands.size(); i += 2) {
        const Value key = evaluate(*expression.operands[i]);
        Value value = evaluate(*expression.operands[i + 1]);
        check_hashable(runtime_.budget, key);
        runtime_.budget.step(static_cast<std::int64_t>(entries.size()));
        bool is_known = false;
        for (auto& [other, old] : entries) {
            if (!equal(runtime_.budget, other, key)) continue;
            old = value;
            is_known = true;
            break;
        }
        if (!is_known) entries.emplace_back(key, std::move(value));
    }
    return runtime_.dict(std::move(entries));
}

Value Renderer::evaluate_item(const Expression& expression) {
    const Value value = evaluate(*expression.operands[0]);
    if (expression.kind == ExpressionKind::kItem) {
        const Expression& key = *expression.operands[1];
        const Value found = get_item(runtime_, value, evaluate(key));
        const bool has_name = key.kind == ExpressionKind::kConstant && key.constant.is_text();
        return found.is_undefined() && has_name ? Value::undefined(&key.constant.text().bytes) : found;
    }
    const Value start = evaluate_or_none(expression.operands[1]);
    const Value stop = evaluate_or_none(expression.operands[2]);
    return get_slice(runtime_, value, start, stop, evaluate_or_none(expression.operands[3]));
}

Value Renderer::evaluate_conditional(const Expression& expression) {
    if (is_true(evaluate(*expression.operands[0]))) return evaluate(*expression.operands[1]);
    return expression.operands[2] == nullptr ? Value() : evaluate(*expression.operands[2]);
}

Value Renderer::evaluate_compare(const Expression& expression) {
    Value left = evaluate(*expression.operands[0]);
    for (std::size_t i = 0; i < expression.comparisons.size(); ++i) {
        Value right = evaluate(*expression.operands[i + 1]);
        if (!compare(runtime_, expression.comparisons[i], left, right)) return Value::boolean(false);
        left = std::move(right);
    }
    return Value::boolean(true);
}

// Texts that are added one after the other grow in one place.
Value Renderer::evaluate_sum(const Expression& expression) {
    const auto is_plain = [](const Value& value) { return value.is_text() && !value.text().is_markup; };
    std::vector<const Expression*> added;
    const Expression* first = &expression;
    for (; first->kind == ExpressionKind::kAdd; first = first->operands[0].get()) {
        if (!added.empty()) runtime_.budget.step();
        added.push_back(first->operands[1].get());
    }
    Value sum = evaluate(*first);
    std::optional<TextBuilder> text;  // in the place of the sum, once there is one
    for (; !added.empty(); added.pop_back()) {
        const Value value = evaluate(*added.back());
        if (is_plain(value) && (text || is_plain(sum))) {
            if (!text) text.emplace(runtime_.budget).append(sum.text());
            text->append(value.text());
            continue;
        }
        if (text) sum = text->finish();
        text.reset();
        sum = calculate(runtime_, ExpressionKind::kAdd, sum, value);
    }
    return text ? Value(text->finish()) : sum;
}

Value Renderer::evaluate_concatenation(const Expression& expression) {
    TextBuilder out(runtime_.budget);
    for (const auto& operand : expression.operands) print(runtime_, out, evaluate(*operand));
    return out.finish();
}

Arguments Renderer::evaluate_arguments(const Expression& expression) {
    Arguments out;
    for (std::size_t i = 1; i < expression.operands.size(); ++i)
        out.positional.push_back(evaluate(*expression.operands[i]));
    for (const auto& [name, value] : expression.named) out.named.emplace_back(name, evaluate(*value));
    return out;
}

Value Renderer::evaluate_filters(const Expression& expression, const Value* base) {
    const Expression* inner = expression.operands[0].get();
    const Value value = inner == nullptr ? *base
                        : base != nullptr && inner->kind == ExpressionKind::kFilter
                            ? evaluate_filters(*inner, base)
                            : evaluate(*inner);
    const Arguments arguments = evaluate_arguments(expression);
    runtime_.budget.set_line(expression.line);
    return run_filter(runtime_, expression.name, value, arguments);
}

Value Renderer::evaluate_call(const Expression& expression) {
    const Expression& target = *expression.operands[0];
    Value callee;
    if (target.kind == ExpressionKind::kAttribute) {
        const Value receiver = evaluate(*target.operands[0]);
        if (is_mutating_method(receiver, target.name))
            runtime_.fail("the method " + in_quotes(target.name) +
                          " changes a value, which a template may not do");
        callee = get_attribute(runtime_, receiver, target.name);
    } else {
        callee = evaluate(target);
    }
    const Arguments arguments = evaluate_arguments(expression);
    runtime_.budget.set_line(expression.line);
    return call(callee, arguments);
}

Value Renderer::call(const Value& callee, const Arguments& arguments) {
    switch (callee.kind()) {
        case Kind::kMacro:
            return call_macro(static_cast<const Macro&>(*callee.identity()), arguments);
        case Kind::kMethod:
            return call_method(runtime_, callee.method(), arguments);
        case Kind::kFunction:
            return call_function(runtime_, callee.function(), arguments);
        case Kind::kUndefined:
            runtime_.fail((callee.name() != nullptr ? in_quotes(*callee.name()) : "what is called") +
                          " is undefined");
        default:
            runtime_.fail("a value of type " + std::string(type_name(callee)) + " cannot be called");
    }
}

Value Renderer::call_macro(const Macro& macro, const Arguments& arguments) {
    const Statement& definition = macro.definition;
    const std::string title = "the macro " + in_quotes(definition.name);
    const auto defined_in = macro.scope.lock();
    if (defined_in == nullptr) runtime_.fail(title + " is called after the block that defines it has ended");
    if (calls_ >= runtime_.budget.limits().calls)
        runtime_.budget.exceed("macros call each other more than " +
                               std::to_string(runtime_.budget.limits().calls) + " deep");
    if (arguments.positional.size() > definition.parameters.size())
        runtime_.fail(title + " takes at most " + std::to_string(definition.parameters.size()) +
                      " arguments, not " + std::to_string(arguments.positional.size()));

    runtime_.budget.step(4);  // for the scope, the text and the names
    const auto caller_scope = scope_;
    scope_ = std::make_shared<Scope>();
    scope_->parent = defined_in.get();
    scope_->begin(definition.hidden);
    TextBuilder text(runtime_.budget);
    TextBuilder* const caller_out = std::exchange(out_, &text);
    ++calls_;
    std::size_t used = 0;
    for (std::size_t i = 0; i < definition.parameters.size(); ++i) {
        const MacroParameter& parameter = definition.parameters[i];
        const Value* given = i < arguments.positional.size() ? &arguments.positional[i] : nullptr;
        for (const auto& [name, value] : arguments.named) {
            if (name != parameter.name) continue;
            if (given != nullptr) runtime_.fail(title + " is given " + in_quotes(name) + " twice");
            given = &value;
            ++used;
        }
        Value value = Value::undefined(&parameter.name);
        if (given != nullptr) {
            value = *given;
        } else if (parameter.otherwise != nullptr) {
            value = evaluate(*parameter.otherwise);
        }
        scope_->set(parameter.name, std::move(value));
    }
    if (used < arguments.named.size()) {
        for (const auto& [name, value] : arguments.named)
            if (scope_->find(std::string(name)) == nullptr)
                runtime_.fail(title + " has no parameter " + in_quotes(name));
    }
    execute(definition.body);
    --calls_;
    out_ = caller_out;
    scope_ = caller_scope;
    return text.finish();
}

}  // namespace qlora::jinja
