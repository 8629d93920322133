// The tightest part of an expression: literals, names, access, calls, filters and tests.
#include <array>
#include <charconv>

#include "expression_parser.h"
#include "filters.h"
#include "messages.h"
#include "numbers.h"
#include "value_tests.h"

namespace qlora::jinja {
namespace {

// jinja2 has them, transformers' templates never use them.
constexpr std::array<std::string_view, 6> kRefusedNames = {"cycler",  "joiner", "lipsum",
                                                           "varargs", "kwargs", "caller"};

}  // namespace

ExpressionPtr ExpressionParser::primary() {
    const Token token = current();
    ExpressionPtr out;
    switch (token.type) {
        case TokenType::kName: {
            take();
            out = make(ExpressionKind::kConstant, token.line);
            if (token.text == "true" || token.text == "True" || token.text == "false" ||
                token.text == "False") {
                out->constant = Value::boolean(token.text == "true" || token.text == "True");
            } else if (token.text == "none" || token.text == "None") {
                out->constant = Value::none();
            } else {
                for (const std::string_view refused : kRefusedNames)
                    if (token.text == refused)
                        fail("the name " + in_quotes(refused) + " is not supported", token.line);
                out->kind = ExpressionKind::kName;
                out->name = token.text;
                program_.names.insert(token.text);
            }
            return out;
        }
        case TokenType::kString: {
            std::string all = take().text;
            while (current().type == TokenType::kString) all += take().text;
            out = make(ExpressionKind::kConstant, token.line);
            out->constant =
                Value(std::make_shared<const Text>(nullptr, std::move(all), std::vector<Run>{}, false));
            return out;
        }
        case TokenType::kInteger:
        case TokenType::kFloat:
            return number(take());
        default:
            break;
    }
    if (skip_operator("(")) {
        out = tuple(true, true);
        expect_operator(")");
        return out;
    }
    if (token.is_operator("[")) return list();
    if (token.is_operator("{")) return dict();
    fail("unexpected " + description(token));
}

ExpressionPtr ExpressionParser::number(const Token& token) {
    ExpressionPtr out = make(ExpressionKind::kConstant, token.line);
    const std::string& text = token.text;
    const char* begin = text.data();
    const char* end = begin + text.size();
    if (token.type == TokenType::kFloat) {
        const auto value = parse_float(text);
        if (!value) fail("the number " + in_quotes(text) + " cannot be read", token.line);
        out->constant = Value::real(*value);
        return out;
    }
    int base = 10;
    if (text.size() > 1 && text[0] == '0' && (text[1] | 0x20) >= 'a') {
        base = (text[1] | 0x20) == 'x' ? 16 : (text[1] | 0x20) == 'o' ? 8 : 2;
        begin += 2;
    }
    std::int64_t value = 0;
    if (std::from_chars(begin, end, value, base).ec != std::errc())
        fail("the number " + in_quotes(text) + " is beyond 64 bits", token.line);
    out->constant = Value::integer(value);
    return out;
}

ExpressionPtr ExpressionParser::list() {
    ExpressionPtr out = make(ExpressionKind::kList, take().line);
    while (!current().is_operator("]")) {
        if (!out->operands.empty()) expect_operator(",");
        if (current().is_operator("]")) break;
        add_operand(*out, expression());
    }
    take();
    return out;
}

ExpressionPtr ExpressionParser::dict() {
    ExpressionPtr out = make(ExpressionKind::kDict, take().line);
    while (!current().is_operator("}")) {
        if (!out->operands.empty()) expect_operator(",");
        if (current().is_operator("}")) break;
        add_operand(*out, expression());
        expect_operator(":");
        add_operand(*out, expression());
    }
    take();
    return out;
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr value) {
    while (true) {
        if (current().is_operator(".")) {
            value = attribute(std::move(value));
        } else if (current().is_operator("[")) {
            value = subscript(std::move(value));
        } else if (current().is_operator("(")) {
            ExpressionPtr call = make(ExpressionKind::kCall, current().line);
            add_operand(*call, std::move(value));
            arguments(*call);
            value = std::move(call);
        } else {
            return value;
        }
    }
}

ExpressionPtr ExpressionParser::attribute(ExpressionPtr value) {
    const int line = take().line;
    const Token token = take();
    ExpressionPtr out;
    if (token.type == TokenType::kName) {
        out = make(ExpressionKind::kAttribute, line);
        out->name = token.text;
        add_operand(*out, std::move(value));
    } else if (token.type == TokenType::kInteger) {
        out = make(ExpressionKind::kItem, line);
        add_operand(*out, std::move(value));
        add_operand(*out, number(token));
    } else {
        fail("expected a name or a number after '.', not " + description(token), token.line);
    }
    return out;
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr value) {
    const int line = take().line;
    if (current().is_operator("]")) fail("an index is missing between '[' and ']'");
    const auto at_colon_or_end = [&] { return current().is_operator(":") || current().is_operator("]"); };
    ExpressionPtr first = at_colon_or_end() ? nullptr : expression();
    ExpressionPtr out =
        make(current().is_operator(":") ? ExpressionKind::kSlice : ExpressionKind::kItem, line);
    add_operand(*out, std::move(value));
    add_operand(*out, std::move(first));
    if (out->kind == ExpressionKind::kSlice) {
        for (int i = 0; i < 2; ++i) {
            const bool is_given = skip_operator(":") && !at_colon_or_end();
            add_operand(*out, is_given ? expression() : nullptr);
        }
    }
    if (current().is_operator(",")) fail("an index of several parts is not supported");
    expect_operator("]");
    return out;
}

void ExpressionParser::arguments(Expression& call) {
    expect_operator("(");
    bool is_first = true;
    while (!current().is_operator(")")) {
        if (!is_first) expect_operator(",");
        if (current().is_operator(")")) break;
        is_first = false;
        if (current().is_operator("*") || current().is_operator("**"))
            fail("arguments with " + in_quotes(current().text) + " are not supported");
        if (current().type == TokenType::kName && following().is_operator("=")) {
            std::string name = take().text;
            take();
            for (const auto& [other, value] : call.named)
                if (other == name) fail("the argument " + in_quotes(name) + " is given twice");
            ExpressionPtr value = expression();
            call.depth = std::max(call.depth, value->depth + 1);
            call.named.emplace_back(std::move(name), std::move(value));
        } else {
            if (!call.named.empty()) fail("an argument without a name follows one with a name");
            add_operand(call, expression());
        }
    }
    take();
}

ExpressionPtr ExpressionParser::with_filters(ExpressionPtr value) {
    while (true) {
        if (current().is_operator("|")) {
            value = filters(std::move(value), false);
        } else if (current().is_name("is")) {
            value = test(std::move(value));
        } else if (current().is_operator("(")) {
            value = postfix(std::move(value));
        } else {
            return value;
        }
    }
}

std::string ExpressionParser::dotted_name(std::string_view what) {
    std::string name = expect(TokenType::kName, "the name of a " + std::string(what)).text;
    while (skip_operator(".")) name += "." + expect(TokenType::kName, "a name").text;
    return name;
}

ExpressionPtr ExpressionParser::filters(ExpressionPtr value, bool begins_with_name) {
    while (begins_with_name || current().is_operator("|")) {
        if (!begins_with_name) take();
        begins_with_name = false;
        ExpressionPtr out = make(ExpressionKind::kFilter, current().line);
        out->name = dotted_name("filter");
        add_operand(*out, std::move(value));
        if (!is_filter(out->name)) note_unknown("filter", out->name, out->line);
        if (current().is_operator("(")) arguments(*out);
        value = std::move(out);
    }
    return value;
}

ExpressionPtr ExpressionParser::test(ExpressionPtr value) {
    ExpressionPtr out = make(ExpressionKind::kTest, take().line);
    const bool is_negated = skip_name("not");
    out->name = dotted_name("test");
    add_operand(*out, std::move(value));
    if (!is_test(out->name)) note_unknown("test", out->name, out->line);
    const Token& next = current();
    const bool begins_value = next.type == TokenType::kString || next.type == TokenType::kInteger ||
                              next.type == TokenType::kFloat || next.is_operator("[") ||
                              next.is_operator("{") ||
                              (next.type == TokenType::kName && !next.is_name("else") &&
                               !next.is_name("or") && !next.is_name("and"));
    if (next.is_operator("(")) {
        arguments(*out);
    } else if (begins_value) {
        if (next.is_name("is")) fail("a test cannot follow another one: use 'and'");
        add_operand(*out, postfix(primary()));
    }
    if (!is_negated) return out;
    ExpressionPtr negated = make(ExpressionKind::kNot, out->line);
    add_operand(*negated, std::move(out));
    return negated;
}

}  // namespace qlora::jinja
