#include "expression_parser.h"

#include <algorithm>
#include <optional>

#include "messages.h"
#include "qlora/jinja/template.h"

namespace qlora::jinja {
namespace {

struct Operator {
    int level;
    ExpressionKind kind;
};

// From the loosest to the tightest.
constexpr int kOrLevel = 1, kAndLevel = 2, kSumLevel = 1, kJoinLevel = 2, kProductLevel = 3;

std::optional<Operator> logical_operator(const Token& token) {
    if (token.is_name("or")) return Operator{kOrLevel, ExpressionKind::kOr};
    if (token.is_name("and")) return Operator{kAndLevel, ExpressionKind::kAnd};
    return {};
}

std::optional<Operator> arithmetic_operator(const Token& token) {
    if (token.type != TokenType::kOperator) return {};
    if (token.text == "+") return Operator{kSumLevel, ExpressionKind::kAdd};
    if (token.text == "-") return Operator{kSumLevel, ExpressionKind::kSubtract};
    if (token.text == "~") return Operator{kJoinLevel, ExpressionKind::kConcatenate};
    if (token.text == "*") return Operator{kProductLevel, ExpressionKind::kMultiply};
    if (token.text == "/") return Operator{kProductLevel, ExpressionKind::kDivide};
    if (token.text == "//") return Operator{kProductLevel, ExpressionKind::kFloorDivide};
    if (token.text == "%") return Operator{kProductLevel, ExpressionKind::kModulo};
    return {};
}

std::optional<Comparison> comparison_of(const Token& token, const Token& following) {
    if (token.is_name("in")) return Comparison::kIn;
    if (token.is_name("not") && following.is_name("in")) return Comparison::kNotIn;
    if (token.type != TokenType::kOperator) return {};
    if (token.text == "==") return Comparison::kEqual;
    if (token.text == "!=") return Comparison::kNotEqual;
    if (token.text == "<") return Comparison::kLess;
    if (token.text == "<=") return Comparison::kLessEqual;
    if (token.text == ">") return Comparison::kGreater;
    if (token.text == ">=") return Comparison::kGreaterEqual;
    return {};
}

}  // namespace

ExpressionParser::ExpressionParser(std::vector<Token> tokens, Program& program, const Limits& limits)
    : tokens_(std::move(tokens)), program_(program), limits_(limits), stack_(limits) {}

ExpressionParser::Level::Level(ExpressionParser& parser) : parser_(parser) {
    if (++parser.level_ > parser.limits_.nesting || parser.stack_.is_exhausted())
        parser.fail("the template is nested too deeply: at most " + std::to_string(parser.limits_.nesting) +
                    " levels are read");
}

void ExpressionParser::fail(const std::string& message, int line) const {
    throw SyntaxError(at_line(program_.name, line > 0 ? line : current().line, message));
}

std::string ExpressionParser::description(const Token& token) const {
    switch (token.type) {
        case TokenType::kData:
            return "text";
        case TokenType::kBlockBegin:
            return "'{%'";
        case TokenType::kBlockEnd:
            return "'%}'";
        case TokenType::kVariableBegin:
            return "'{{'";
        case TokenType::kVariableEnd:
            return "'}}'";
        case TokenType::kString:
            return "the string " + in_quotes(token.text);
        case TokenType::kEnd:
            return "the end of the template";
        default:
            return in_quotes(token.text);
    }
}

Token ExpressionParser::take() {
    Token token = std::move(tokens_[at_]);
    if (token.type == TokenType::kEnd) {
        tokens_[at_] = token;
    } else {
        ++at_;
    }
    return token;
}

bool ExpressionParser::skip_name(std::string_view name) {
    if (!current().is_name(name)) return false;
    ++at_;
    return true;
}

bool ExpressionParser::skip_operator(std::string_view name) {
    if (!current().is_operator(name)) return false;
    ++at_;
    return true;
}

void ExpressionParser::expect_operator(std::string_view name) {
    if (!skip_operator(name)) fail("expected " + in_quotes(name) + ", not " + description(current()));
}

Token ExpressionParser::expect(TokenType type, std::string_view what) {
    if (current().type != type) fail("expected " + std::string(what) + ", not " + description(current()));
    return take();
}

void ExpressionParser::note_unknown(std::string_view what, const std::string& name, int line) {
    if (!is_soft)
        unknown_.push_back(at_line(program_.name, line,
                                   "the " + std::string(what) + " " + in_quotes(name) + " is not supported"));
}

void ExpressionParser::throw_unknown() const {
    if (!unknown_.empty()) throw SyntaxError(unknown_.front());
}

ExpressionPtr ExpressionParser::make(ExpressionKind kind, int line) const {
    auto out = std::make_unique<Expression>();
    out->kind = kind;
    out->line = line;
    return out;
}

void ExpressionParser::add_operand(Expression& parent, ExpressionPtr operand) const {
    if (operand != nullptr) parent.depth = std::max(parent.depth, operand->depth + 1);
    parent.operands.push_back(std::move(operand));
    if (parent.depth > limits_.nesting)
        fail("an expression is nested too deeply: at most " + std::to_string(limits_.nesting) +
                 " levels are read",
             parent.line);
}

ExpressionPtr ExpressionParser::expression(bool with_condition) {
    const Level level(*this);
    const std::size_t known = unknown_.size();
    ExpressionPtr value = logical(kOrLevel);
    while (with_condition && current().is_name("if")) {
        unknown_.resize(known);  // they stand in a branch
        const bool outer = is_soft;
        is_soft = true;
        ExpressionPtr all = make(ExpressionKind::kConditional, take().line);
        add_operand(*all, logical(kOrLevel));
        add_operand(*all, std::move(value));
        add_operand(*all, skip_name("else") ? expression() : nullptr);
        is_soft = outer;
        value = std::move(all);
    }
    return value;
}

// `or` and `and` of at least the level `least`.
ExpressionPtr ExpressionParser::logical(int least) {
    ExpressionPtr left = negation();
    for (auto found = logical_operator(current()); found && found->level >= least;
         found = logical_operator(current())) {
        ExpressionPtr all = make(found->kind, take().line);
        add_operand(*all, std::move(left));
        add_operand(*all, logical(found->level + 1));
        left = std::move(all);
    }
    return left;
}

ExpressionPtr ExpressionParser::negation() {
    std::size_t count = 0;
    for (; current().is_name("not"); ++count) take();
    ExpressionPtr value = comparison();
    for (; count > 0; --count) {
        ExpressionPtr negated = make(ExpressionKind::kNot, value->line);
        add_operand(*negated, std::move(value));
        value = std::move(negated);
    }
    return value;
}

ExpressionPtr ExpressionParser::comparison() {
    ExpressionPtr left = arithmetic(kSumLevel);
    auto found = comparison_of(current(), following());
    if (!found) return left;
    ExpressionPtr all = make(ExpressionKind::kCompare, current().line);
    add_operand(*all, std::move(left));
    for (; found; found = comparison_of(current(), following())) {
        take();
        if (*found == Comparison::kNotIn) take();
        all->comparisons.push_back(*found);
        add_operand(*all, arithmetic(kSumLevel));
    }
    return all;
}

// Sums, joins and products of at least the level `least`.
ExpressionPtr ExpressionParser::arithmetic(int least) {
    ExpressionPtr left = unary(true);
    for (auto found = arithmetic_operator(current()); found && found->level >= least;
         found = arithmetic_operator(current())) {
        const int line = take().line;
        const bool goes_on = found->kind == ExpressionKind::kConcatenate && left->kind == found->kind;
        ExpressionPtr all = goes_on ? std::move(left) : make(found->kind, line);
        if (!goes_on) add_operand(*all, std::move(left));
        add_operand(*all, arithmetic(found->level + 1));
        left = std::move(all);
    }
    return left;
}

ExpressionPtr ExpressionParser::unary(bool filtered) {
    ExpressionPtr value;
    if (current().is_operator("-") || current().is_operator("+")) {
        const Level level(*this);
        const Token sign = take();
        value = make(sign.text == "-" ? ExpressionKind::kNegative : ExpressionKind::kPositive, sign.line);
        add_operand(*value, unary(false));
    } else {
        value = primary();
    }
    value = postfix(std::move(value));
    if (current().is_operator("**")) fail("the operator '**' is not supported");
    return filtered ? with_filters(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::tuple(bool with_condition, bool in_parentheses) {
    const int line = current().line;
    const auto ends = [&] {
        const TokenType type = current().type;
        return type == TokenType::kVariableEnd || type == TokenType::kBlockEnd || current().is_operator(")");
    };
    if (ends()) {
        if (!in_parentheses) fail("expected an expression, not " + description(current()));
        return make(ExpressionKind::kTuple, line);
    }
    ExpressionPtr first = expression(with_condition);
    if (!current().is_operator(",")) return first;
    ExpressionPtr all = make(ExpressionKind::kTuple, line);
    add_operand(*all, std::move(first));
    while (skip_operator(",") && !ends()) add_operand(*all, expression(with_condition));
    return all;
}

}  // namespace qlora::jinja
