#include "hidden_names.h"

#include <string_view>
#include <unordered_map>
#include <unordered_set>

namespace qlora::jinja {
namespace {

using NameSet = std::unordered_set<std::string_view>;

// What is known of a name in a frame, in the order of the text.
struct Symbol {
    bool is_known = false;      // read or set so far
    bool is_set = false;        // set so far
    bool begins_unset = false;  // undefined where the frame begins
};
using Symbols = std::unordered_map<std::string_view, Symbol>;

class Frame {
  public:
    /// `outer` counts the frames around this one that know a name.
    explicit Frame(std::unordered_map<std::string_view, int>& outer) : outer_(outer) {}

    void read(std::string_view name) {
        reads_.insert(name);
        if (outer_[name] == 0) change(name).is_known = true;
    }

    void set(std::string_view name) {
        Symbol& symbol = change(name);
        symbol.is_set = true;
        if (symbol.is_known) return;
        symbol.is_known = true;
        symbol.begins_unset = outer_[name] == 0;
    }

    /// Notes of `visit` what it changes, and takes it back.
    template <class Visit>
    Symbols branch(Visit visit) {
        std::unordered_map<std::string_view, Symbol> before;
        auto* const outer_undo = std::exchange(undo_, &before);
        visit();
        undo_ = outer_undo;
        Symbols changed;
        for (const auto& [name, old] : before) {
            changed[name] = symbols_[name];
            symbols_[name] = old;
        }
        return changed;
    }

    /// After the branches of an `if`: what one of them sets may still be the caller's variable.
    void merge(std::initializer_list<const Symbols*> branches) {
        NameSet newly_set;
        for (const Symbols* branch : branches)
            for (const auto& [name, symbol] : *branch)
                if (symbol.is_set && !symbols_[name].is_set) newly_set.insert(name);
        for (const Symbols* branch : branches)
            for (const auto& [name, symbol] : *branch) {
                Symbol& mine = change(name);
                mine.is_known |= symbol.is_known;
                mine.is_set |= symbol.is_set;
            }
        for (const std::string_view name : newly_set) change(name).begins_unset = false;
    }

    const Symbols& symbols() const { return symbols_; }
    const NameSet& reads() const { return reads_; }

  private:
    Symbol& change(std::string_view name) {
        Symbol& symbol = symbols_[name];
        if (undo_ != nullptr) undo_->try_emplace(name, symbol);
        return symbol;
    }

    std::unordered_map<std::string_view, int>& outer_;
    Symbols symbols_;
    NameSet reads_;
    std::unordered_map<std::string_view, Symbol>* undo_ = nullptr;
};

class Analysis {
  public:
    void run(Program& program) {
        Frame frame(known_);
        visit(program.body, frame);
        finish(frame, program.body, program.hidden);
    }

  private:
    void visit(const Expression& expression, Frame& frame) {
        if (expression.kind == ExpressionKind::kName) frame.read(expression.name);
        for (const auto& operand : expression.operands)
            if (operand != nullptr) visit(*operand, frame);
        for (const auto& [name, value] : expression.named) visit(*value, frame);
    }

    void visit(const Body& body, Frame& frame) {
        for (const auto& statement : body) visit(*statement, frame);
    }

    void visit_if(const Statement& statement, Frame& frame) {
        const std::vector<Branch>& branches = statement.branches;
        visit(*branches.front().condition, frame);
        const Symbols body = frame.branch([&] { visit(branches.front().body, frame); });
        const Symbols elifs = frame.branch([&] {
            for (std::size_t i = 1; i < branches.size() && branches[i].condition != nullptr; ++i) {
                visit(*branches[i].condition, frame);
                const Symbols inner = frame.branch([&] { visit(branches[i].body, frame); });
                frame.merge({&inner});
            }
        });
        const Symbols otherwise = frame.branch([&] {
            if (branches.back().condition == nullptr) visit(branches.back().body, frame);
        });
        frame.merge({&body, &elifs, &otherwise});
    }

    // What the statement does to the frame that it stands in; bodies with a frame of their own come later.
    void visit(const Statement& statement, Frame& frame) {
        switch (statement.kind) {
            case StatementKind::kOutput:
            case StatementKind::kFor:
            case StatementKind::kFilterBlock:
                if (statement.value != nullptr) visit(*statement.value, frame);
                break;
            case StatementKind::kIf:
                visit_if(statement, frame);
                break;
            case StatementKind::kSet:
                visit(*statement.value, frame);
                for (const std::string& target : statement.targets) frame.set(target);
                break;
            case StatementKind::kSetAttribute:
                visit(*statement.value, frame);
                frame.read(statement.targets.front());
                break;
            case StatementKind::kSetBlock:
                frame.set(statement.targets.front());
                break;
            case StatementKind::kMacro:
                frame.set(statement.name);
                break;
            default:
                break;
        }
    }

    // The frames inside a body, and then its hidden names: those that a frame inside reads.
    void finish(const Frame& frame, Body& body, std::vector<std::string>& hidden) {
        for (const auto& [name, symbol] : frame.symbols()) known_[name] += symbol.is_known ? 1 : 0;
        NameSet inside = std::exchange(read_inside_, {});
        enter(body);
        for (const auto& [name, symbol] : frame.symbols()) {
            known_[name] -= symbol.is_known ? 1 : 0;
            if (symbol.begins_unset && read_inside_.contains(name)) hidden.emplace_back(name);
        }
        read_inside_.insert(frame.reads().begin(), frame.reads().end());
        if (inside.size() > read_inside_.size()) std::swap(inside, read_inside_);
        read_inside_.merge(inside);
    }

    void enter(Body& body) {
        for (const auto& statement : body) enter(*statement);
    }

    void enter(Statement& statement) {
        for (Branch& branch : statement.branches) enter(branch.body);
        if (statement.kind == StatementKind::kFor) {
            frame_of(statement, statement.body, statement.hidden, true);
            frame_of(statement, statement.otherwise, statement.hidden_otherwise, false);
            if (statement.condition != nullptr) {
                Frame frame(known_);
                visit(*statement.condition, frame);
                Body none;
                std::vector<std::string> nothing;
                finish(frame, none, nothing);
            }
        } else if (!statement.body.empty()) {
            frame_of(statement, statement.body, statement.hidden, false);
        }
    }

    void frame_of(const Statement& statement, Body& body, std::vector<std::string>& hidden,
                  bool has_targets) {
        Frame frame(known_);
        const auto declare = [&](std::string_view name) {
            known_[name] += 1;  // for a moment: a parameter is never unset
            frame.set(name);
            known_[name] -= 1;
        };
        if (has_targets)
            for (const std::string& target : statement.targets) declare(target);
        for (const MacroParameter& parameter : statement.parameters) declare(parameter.name);
        for (const MacroParameter& parameter : statement.parameters)
            if (parameter.otherwise != nullptr) visit(*parameter.otherwise, frame);
        visit(body, frame);
        finish(frame, body, hidden);
    }

    std::unordered_map<std::string_view, int> known_;
    NameSet read_inside_;  // in the frames inside the present one, so far
};

}  // namespace

void find_hidden_names(Program& program) {
    Analysis().run(program);
}

}  // namespace qlora::jinja
