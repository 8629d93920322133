#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "input.h"
#include "iteration.h"
#include "runtime.h"
#include "syntax_tree.h"

namespace qlora::jinja {

/// Variables that are set in one place: the template, a loop's body, a macro's call.
struct Scope {
    Value* find(const std::string& name);
    void set(const std::string& name, Value value);
    /// Begins with these variables, undefined.
    void begin(const std::vector<std::string>& hidden);

    Scope* parent = nullptr;
    std::vector<std::pair<const std::string*, Value>> variables;
};

/// A macro with the scope it was defined in, which it sees; a call after that scope has ended is refused.
struct Macro : Object {
    Macro(Budget* budget, const Statement& definition_, std::weak_ptr<Scope> scope_)
        : Object(budget, sizeof(Macro)), definition(definition_), scope(std::move(scope_)) {}

    const Statement& definition;
    std::weak_ptr<Scope> scope;
};

/// Runs a program once.
class Renderer {
  public:
    /// `read` goes before `own`; it must outlive the renderer.
    Renderer(Runtime& runtime, const Variables& read, Variables own);

    /// The text that the program writes.
    TextPtr run(const Program& program);

  private:
    enum class Flow { kNext, kBreak, kContinue };

    // Statements.
    Flow execute(const Body& body);
    Flow execute(const Statement& statement);
    Flow execute_if(const Statement& statement);
    Flow execute_for(const Statement& statement);
    Flow execute_set_block(const Statement& statement);
    Flow execute_filter_block(const Statement& statement);
    void execute_generation(const Statement& statement);
    void set_attribute(const Statement& statement);
    void assign(const Statement& statement, const Value& value);
    void write(const Value& value);
    // Runs the statement's body in a scope of its own and gives what it writes.
    TextPtr captured(const Statement& statement, Flow& flow);

    // Expressions.
    Value evaluate(const Expression& expression);
    Value evaluate_or_none(const ExpressionPtr& expression);
    Value look_up(const Expression& name);
    Value evaluate_items(const Expression& expression);
    Value evaluate_dict(const Expression& expression);
    Value evaluate_item(const Expression& expression);
    Value evaluate_call(const Expression& expression);
    Value evaluate_filters(const Expression& expression, const Value* base);
    Value evaluate_conditional(const Expression& expression);
    Value evaluate_sum(const Expression& expression);
    Value evaluate_compare(const Expression& expression);
    Value evaluate_concatenation(const Expression& expression);
    Arguments evaluate_arguments(const Expression& expression);
    Value call(const Value& callee, const Arguments& arguments);
    Value call_macro(const Macro& macro, const Arguments& arguments);

    Runtime& runtime_;
    const Variables& read_;
    Variables own_;
    std::shared_ptr<Scope> scope_;
    TextBuilder* out_ = nullptr;
    int calls_ = 0;
    std::uint32_t generations_ = 0;
};

}  // namespace qlora::jinja
