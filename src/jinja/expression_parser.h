#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "budget.h"
#include "lexer.h"
#include "syntax_tree.h"

namespace qlora::jinja {

/// Reads the expressions of a template from its tokens.
class ExpressionParser {
  public:
    ExpressionParser(std::vector<Token> tokens, Program& program, const Limits& limits);

    /// An expression; without `with_condition` an `if` behind it is left for the statement.
    ExpressionPtr expression(bool with_condition = true);
    /// An expression, or several with commas between them as a tuple.
    ExpressionPtr tuple(bool with_condition = true, bool in_parentheses = false);
    /// Filters without the value that they are applied to: of a filter block (`begins_with_name`) or a set
    /// block.
    ExpressionPtr filters(ExpressionPtr value, bool begins_with_name);

    const Token& current() const { return tokens_[at_]; }
    const Token& following() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
    Token take();
    bool skip_name(std::string_view name);
    bool skip_operator(std::string_view name);
    void expect_operator(std::string_view name);
    Token expect(TokenType type, std::string_view what);
    bool at_end() const { return current().type == TokenType::kEnd; }
    [[noreturn]] void fail(const std::string& message, int line = 0) const;
    /// "'endfor'", "end of the template", ...
    std::string description(const Token& token) const;

    /// Inside an {% if %} a filter or test that does not exist is no error before the branch runs.
    bool is_soft = false;
    /// Throws for the first unknown filter or test that stands where it always runs.
    void throw_unknown() const;

    /// Checks that blocks and expressions are not nested too deeply.
    class Level {
      public:
        explicit Level(ExpressionParser& parser);
        ~Level() { --parser_.level_; }

      private:
        ExpressionParser& parser_;
    };

  private:
    ExpressionPtr make(ExpressionKind kind, int line) const;
    void add_operand(Expression& parent, ExpressionPtr operand) const;
    ExpressionPtr logical(int least);
    ExpressionPtr negation();
    ExpressionPtr comparison();
    ExpressionPtr arithmetic(int least);
    ExpressionPtr unary(bool filtered);
    ExpressionPtr primary();
    ExpressionPtr list();
    ExpressionPtr dict();
    ExpressionPtr postfix(ExpressionPtr value);
    ExpressionPtr attribute(ExpressionPtr value);
    ExpressionPtr subscript(ExpressionPtr value);
    ExpressionPtr with_filters(ExpressionPtr value);
    ExpressionPtr test(ExpressionPtr value);
    void arguments(Expression& call);
    ExpressionPtr number(const Token& token);
    std::string dotted_name(std::string_view what);
    void note_unknown(std::string_view what, const std::string& name, int line);

    std::vector<Token> tokens_;
    std::size_t at_ = 0;
    Program& program_;
    const Limits& limits_;
    StackGuard stack_;
    int level_ = 0;
    std::vector<std::string> unknown_;
};

}  // namespace qlora::jinja
