#include "parser.h"

#include <algorithm>
#include <initializer_list>

#include "expression_parser.h"
#include "hidden_names.h"
#include "messages.h"
#include "qlora/core/utf8.h"

namespace qlora::jinja {
namespace {

using StatementPtr = std::unique_ptr<Statement>;

class Parser {
  public:
    Parser(std::vector<Token> tokens, Program& program, const Limits& limits)
        : tokens_(std::move(tokens), program, limits), program_(program) {}

    void run() {
        program_.body = body({});
        tokens_.throw_unknown();
    }

  private:
    using Names = std::initializer_list<std::string_view>;

    static StatementPtr make(StatementKind kind, int line) {
        auto out = std::make_unique<Statement>();
        out->kind = kind;
        out->line = line;
        return out;
    }

    static TextPtr constant(std::string bytes) {
        return std::make_shared<const Text>(nullptr, std::move(bytes), std::vector<Run>{}, false);
    }

    // Statements up to a tag with one of the names `ends`, whose name is the current token afterwards.
    Body body(Names ends) {
        const ExpressionParser::Level level(tokens_);
        const int line = tokens_.current().line;
        Body out;
        while (!tokens_.at_end()) {
            if (tokens_.current().type == TokenType::kData) {
                Token token = tokens_.take();
                out.push_back(make(StatementKind::kData, token.line));
                out.back()->text = constant(std::move(token.text));
            } else if (tokens_.current().type == TokenType::kVariableBegin) {
                out.push_back(make(StatementKind::kOutput, tokens_.take().line));
                out.back()->value = tokens_.tuple();
                tokens_.expect(TokenType::kVariableEnd, "'}}'");
            } else {
                tokens_.expect(TokenType::kBlockBegin, "a tag");
                for (const std::string_view end : ends)
                    if (tokens_.current().is_name(end)) return out;
                out.push_back(statement());
                end_tag();
            }
        }
        if (ends.size() > 0)
            tokens_.fail("the tag " + in_quotes(open_tags_.back()) + " is not closed with " +
                             in_quotes(*(ends.end() - 1)),
                         line);
        return out;
    }

    void end_tag() { tokens_.expect(TokenType::kBlockEnd, "'%}'"); }

    // The rest of a tag, then its body.
    Body tag_body(Names ends) {
        tokens_.skip_operator(":");
        end_tag();
        return body(ends);
    }

    StatementPtr statement() {
        const Token tag = tokens_.expect(TokenType::kName, "the name of a tag");
        open_tags_.push_back(tag.text);
        StatementPtr out = statement_of(tag);
        open_tags_.pop_back();
        return out;
    }

    StatementPtr statement_of(const Token& tag) {
        const std::string& name = tag.text;
        if (name == "if") return if_(tag);
        if (name == "for") return for_(tag);
        if (name == "set") return set_(tag);
        if (name == "macro") return macro_(tag);
        if (name == "filter") return filter_(tag);
        if (name == "generation") return generation_(tag);
        if (name == "break" || name == "continue") {
            if (loops_ == 0)
                tokens_.fail("the tag " + in_quotes(name) + " stands outside of a loop", tag.line);
            return make(name == "break" ? StatementKind::kBreak : StatementKind::kContinue, tag.line);
        }
        if (name.starts_with("end") || name == "else" || name == "elif") {
            open_tags_.pop_back();
            const std::string open = open_tags_.empty() ? "" : "; open is " + in_quotes(open_tags_.back());
            tokens_.fail("the tag " + in_quotes(name) + " closes nothing that is open" + open, tag.line);
        }
        tokens_.fail("the tag " + in_quotes(name) + " is not supported", tag.line);
    }

    StatementPtr if_(const Token& tag) {
        const bool outer = tokens_.is_soft;
        tokens_.is_soft = true;
        StatementPtr out = make(StatementKind::kIf, tag.line);
        while (true) {
            ExpressionPtr condition = tokens_.tuple(false);
            Body branch = tag_body({"elif", "else", "endif"});
            out->branches.push_back({std::move(condition), std::move(branch)});
            const Token next = tokens_.take();
            if (next.text == "elif") continue;
            if (next.text == "else") {
                out->branches.push_back({nullptr, tag_body({"endif"})});
                tokens_.take();
            }
            break;
        }
        tokens_.is_soft = outer;
        return out;
    }

    // Runs `read` as what always runs: a branch outside of it does not count.
    template <class Read>
    auto hard(Read read) {
        const bool outer = tokens_.is_soft;
        tokens_.is_soft = false;
        auto out = read();
        tokens_.is_soft = outer;
        return out;
    }

    std::string target_name() {
        const Token token = tokens_.expect(TokenType::kName, "the name of a variable");
        for (const std::string_view reserved :
             {"true", "True", "false", "False", "none", "None", "and", "or", "not", "in", "is", "if", "else"})
            if (token.text == reserved)
                tokens_.fail("nothing can be assigned to " + in_quotes(reserved), token.line);
        return token.text;
    }

    // a, or a, b, or (a, b).
    void targets(Statement& out) {
        const bool in_parentheses = tokens_.skip_operator("(");
        out.targets.push_back(target_name());
        while (tokens_.skip_operator(",")) {
            out.unpacks = true;
            if (tokens_.current().type != TokenType::kName || tokens_.current().is_name("in")) break;
            out.targets.push_back(target_name());
        }
        if (in_parentheses) tokens_.expect_operator(")");
    }

    StatementPtr for_(const Token& tag) {
        StatementPtr out = make(StatementKind::kFor, tag.line);
        targets(*out);
        for (const std::string& target : out->targets)
            if (target == "loop") tokens_.fail("nothing can be assigned to 'loop' by a loop", tag.line);
        if (!tokens_.skip_name("in"))
            tokens_.fail("expected 'in', not " + tokens_.description(tokens_.current()));
        out->value = tokens_.tuple(false);
        if (tokens_.skip_name("if")) out->condition = hard([&] { return tokens_.expression(); });
        if (tokens_.current().is_name("recursive")) tokens_.fail("a loop with 'recursive' is not supported");
        ++loops_;
        out->body = hard([&] { return tag_body({"else", "endfor"}); });
        --loops_;
        if (tokens_.take().text == "else") {
            out->otherwise = hard([&] { return tag_body({"endfor"}); });
            tokens_.take();
        }
        return out;
    }

    StatementPtr set_(const Token& tag) {
        StatementPtr out = make(StatementKind::kSet, tag.line);
        targets(*out);
        if (out->targets.size() == 1 && !out->unpacks && tokens_.skip_operator(".")) {
            out->kind = StatementKind::kSetAttribute;
            out->attribute = constant(tokens_.expect(TokenType::kName, "the name of an attribute").text);
            program_.names.insert(out->targets.front());
        }
        if (tokens_.skip_operator("=")) {
            out->value = tokens_.tuple();
            return out;
        }
        if (out->kind == StatementKind::kSetAttribute || out->unpacks)
            tokens_.fail("expected '=', not " + tokens_.description(tokens_.current()));
        out->kind = StatementKind::kSetBlock;
        out->value = hard([&] { return tokens_.filters(nullptr, false); });
        out->body = hard([&] { return tag_body({"endset"}); });
        tokens_.take();
        return out;
    }

    // A body that jinja2 makes a function of: a loop outside of it cannot be left from inside.
    Body function_body(Names ends) {
        const int outer = loops_;
        loops_ = 0;
        Body out = hard([&] { return tag_body(ends); });
        loops_ = outer;
        tokens_.take();
        return out;
    }

    StatementPtr macro_(const Token& tag) {
        StatementPtr out = make(StatementKind::kMacro, tag.line);
        out->name = target_name();
        tokens_.expect_operator("(");
        while (!tokens_.current().is_operator(")")) {
            if (!out->parameters.empty()) tokens_.expect_operator(",");
            MacroParameter parameter{target_name(), nullptr};
            for (const MacroParameter& other : out->parameters)
                if (other.name == parameter.name)
                    tokens_.fail("the parameter " + in_quotes(other.name) + " is there twice");
            if (tokens_.skip_operator("=")) {
                parameter.otherwise = hard([&] { return tokens_.expression(); });
            } else if (!out->parameters.empty() && out->parameters.back().otherwise != nullptr) {
                tokens_.fail("a parameter without a default follows one with a default");
            }
            out->parameters.push_back(std::move(parameter));
        }
        tokens_.take();
        out->body = function_body({"endmacro"});
        return out;
    }

    StatementPtr filter_(const Token& tag) {
        StatementPtr out = make(StatementKind::kFilterBlock, tag.line);
        out->value = hard([&] { return tokens_.filters(nullptr, true); });
        out->body = hard([&] { return tag_body({"endfilter"}); });
        tokens_.take();
        return out;
    }

    StatementPtr generation_(const Token& tag) {
        StatementPtr out = make(StatementKind::kGeneration, tag.line);
        out->body = function_body({"endgeneration"});
        program_.has_generation = true;
        return out;
    }

    ExpressionParser tokens_;
    Program& program_;
    std::vector<std::string> open_tags_;
    int loops_ = 0;
};

}  // namespace

std::shared_ptr<const Program> parse_program(std::string_view source, const std::string& name,
                                             const Limits& limits) {
    if (source.size() > limits.source_bytes)
        throw SyntaxError(name + ": the template is longer than " +
                          std::to_string(limits.source_bytes >> 20) + " MB");
    if (const std::size_t at = find_invalid_utf8(source); at != std::string_view::npos)
        throw SyntaxError(at_line(name,
                                  1 + static_cast<int>(std::count(source.begin(), source.begin() + at, '\n')),
                                  "the template is not UTF-8"));
    auto program = std::make_shared<Program>();
    program->name = name;
    Parser(tokenize(source, name), *program, limits).run();
    find_hidden_names(*program);
    return program;
}

}  // namespace qlora::jinja
