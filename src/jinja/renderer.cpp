#include "renderer.h"

#include "messages.h"
#include "print.h"

namespace qlora::jinja {
namespace {

// A place's value until the end of a block. After an error nothing runs any more, but the order of ends is
// the same.
template <class T>
class Temporarily {
  public:
    Temporarily(T& place, T value) : place_(place), before_(std::exchange(place, std::move(value))) {}
    Temporarily(const Temporarily&) = delete;
    ~Temporarily() { place_ = std::move(before_); }

  private:
    T& place_;
    T before_;
};

std::shared_ptr<Scope> scope_inside(const std::shared_ptr<Scope>& parent) {
    auto scope = std::make_shared<Scope>();
    scope->parent = parent.get();
    return scope;
}

}  // namespace

Value* Scope::find(const std::string& name) {
    for (auto& [key, value] : variables)
        if (key == &name || *key == name) return &value;
    return nullptr;
}

void Scope::set(const std::string& name, Value value) {
    if (Value* old = find(name)) {
        *old = std::move(value);
    } else {
        variables.emplace_back(&name, std::move(value));
    }
}

void Scope::begin(const std::vector<std::string>& hidden) {
    variables.clear();
    for (const std::string& name : hidden) variables.emplace_back(&name, Value::undefined(&name));
}

Renderer::Renderer(Runtime& runtime, const Variables& read, Variables own)
    : runtime_(runtime), read_(read), own_(std::move(own)), scope_(std::make_shared<Scope>()) {}

TextPtr Renderer::run(const Program& program) {
    TextBuilder out(runtime_.budget);
    out_ = &out;
    scope_->begin(program.hidden);
    execute(program.body);
    return out.finish();
}

Renderer::Flow Renderer::execute(const Body& body) {
    for (const auto& statement : body)
        if (const Flow flow = execute(*statement); flow != Flow::kNext) return flow;
    return Flow::kNext;
}

Renderer::Flow Renderer::execute(const Statement& statement) {
    runtime_.check_stack();
    runtime_.budget.set_line(statement.line);
    runtime_.budget.step();
    switch (statement.kind) {
        case StatementKind::kData:
            write(Value(statement.text));
            break;
        case StatementKind::kOutput:
            write(evaluate(*statement.value));
            break;
        case StatementKind::kIf:
            return execute_if(statement);
        case StatementKind::kFor:
            return execute_for(statement);
        case StatementKind::kSet:
            assign(statement, evaluate(*statement.value));
            break;
        case StatementKind::kSetAttribute:
            set_attribute(statement);
            break;
        case StatementKind::kSetBlock:
            return execute_set_block(statement);
        case StatementKind::kMacro:
            scope_->set(statement.name, Value(Kind::kMacro, std::make_shared<const Macro>(
                                                                &runtime_.budget, statement, scope_)));
            break;
        case StatementKind::kFilterBlock:
            return execute_filter_block(statement);
        case StatementKind::kGeneration:
            execute_generation(statement);
            break;
        case StatementKind::kBreak:
            return Flow::kBreak;
        case StatementKind::kContinue:
            return Flow::kContinue;
    }
    return Flow::kNext;
}

void Renderer::write(const Value& value) {
    print(runtime_, *out_, value);
    if (out_->size() > runtime_.budget.limits().output_bytes)
        runtime_.budget.exceed("the template writes more than " +
                               std::to_string(runtime_.budget.limits().output_bytes >> 20) + " MB");
}

Renderer::Flow Renderer::execute_if(const Statement& statement) {
    for (const Branch& branch : statement.branches)
        if (branch.condition == nullptr || is_true(evaluate(*branch.condition))) return execute(branch.body);
    return Flow::kNext;
}

Renderer::Flow Renderer::execute_for(const Statement& statement) {
    const Value source = evaluate(*statement.value);
    const auto outer = scope_;
    Loop::Filter filter;
    if (statement.condition != nullptr) {
        filter = [this, &statement, outer](const Value& item) {
            const Temporarily in_scope(scope_, scope_inside(outer));
            assign(statement, item);
            return is_true(evaluate(*statement.condition));
        };
    }
    const auto loop = std::make_shared<Loop>(runtime_, source, std::move(filter));
    Flow flow = Flow::kNext;
    bool is_unused = true;  // jinja2 notes at a body's end that it ran, where break and continue do not come
    {
        static const std::string kLoop = "loop";
        const Temporarily in_scope(scope_, scope_inside(outer));
        while (flow != Flow::kBreak && loop->advance()) {
            runtime_.budget.step();  // for the scope of a turn
            scope_->begin(statement.hidden);
            assign(statement, loop->item);
            scope_->set(kLoop, Value(Kind::kLoop, loop));
            flow = execute(statement.body);
            if (flow == Flow::kNext) is_unused = false;
        }
    }
    loop->close();
    if (!is_unused) return Flow::kNext;
    const Temporarily in_scope(scope_, scope_inside(outer));
    scope_->begin(statement.hidden_otherwise);
    return execute(statement.otherwise);
}

TextPtr Renderer::captured(const Statement& statement, Flow& flow) {
    const Temporarily in_scope(scope_, scope_inside(scope_));
    scope_->begin(statement.hidden);
    TextBuilder text(runtime_.budget);
    const Temporarily into(out_, &text);
    flow = execute(statement.body);
    return text.finish();
}

Renderer::Flow Renderer::execute_set_block(const Statement& statement) {
    Flow flow = Flow::kNext;
    Value value = captured(statement, flow);
    if (flow != Flow::kNext) return flow;
    if (statement.value != nullptr) value = evaluate_filters(*statement.value, &value);
    assign(statement, value);
    return flow;
}

Renderer::Flow Renderer::execute_filter_block(const Statement& statement) {
    Flow flow = Flow::kNext;
    const Value value = captured(statement, flow);
    if (flow == Flow::kNext) write(evaluate_filters(*statement.value, &value));
    return flow;
}

void Renderer::execute_generation(const Statement& statement) {
    const Temporarily in_scope(scope_, scope_inside(scope_));
    scope_->begin(statement.hidden);
    TextBuilder text(runtime_.budget);
    {
        const Temporarily into(out_, &text);
        execute(statement.body);
    }
    text.mark_generation(++generations_);
    write(text.finish());
}

void Renderer::set_attribute(const Statement& statement) {
    const Value value = evaluate(*statement.value);
    Expression name;
    name.kind = ExpressionKind::kName;
    name.name = statement.targets.front();
    const Value space = look_up(name);
    if (!space.is(Kind::kNamespace))
        runtime_.fail("only an attribute of a namespace can be set, and " + in_quotes(name.name) +
                      " is none");
    if (statement.attribute->bytes.starts_with("_"))
        runtime_.fail("a namespace cannot have the attribute " + in_quotes(statement.attribute->bytes) +
                      ", which begins with an underscore");
    space.name_space().set(statement.attribute, value);
}

void Renderer::assign(const Statement& statement, const Value& value) {
    if (!statement.unpacks) return scope_->set(statement.targets.front(), value);
    const std::vector<Value> items = items_of(runtime_, value);
    if (items.size() != statement.targets.size())
        runtime_.fail(std::to_string(statement.targets.size()) +
                      " values are expected to unpack, there are " + std::to_string(items.size()));
    for (std::size_t i = 0; i < items.size(); ++i) scope_->set(statement.targets[i], items[i]);
}

}  // namespace qlora::jinja
