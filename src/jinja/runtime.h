#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qlora/jinja/template.h"
#include "value.h"

namespace qlora::jinja {

/// What one rendering shares: its budget, its clock, and the origins of its input.
class Runtime {
  public:
    Runtime(const Environment& environment_, const std::string& name)
        : environment(environment_), budget(environment_.limits, name), stack(environment_.limits) {}
    /// For a rendering of what `input` has read; that one must outlive it.
    explicit Runtime(const Runtime* input)
        : environment(input->environment), budget(input->budget), stack(environment.limits), input_(input) {}
    Runtime(const Runtime&) = delete;
    Runtime& operator=(const Runtime&) = delete;
    /// Namespaces may hold each other, so they are emptied first.
    ~Runtime();

    Value text(std::string_view bytes, Mark mark = {});
    Value list(std::vector<Value> items);
    Value tuple(std::vector<Value> items);
    Value dict(Dict::Entries entries);
    Value view(std::vector<Value> items, std::string_view type);
    std::shared_ptr<Namespace> make_namespace();
    [[noreturn]] void fail(const std::string& message) const { budget.fail(message); }
    /// Refuses recursion for which the stack has no room.
    void check_stack() const {
        if (stack.is_exhausted()) budget.exceed("the template is nested too deeply");
    }

    /// Notes an origin of the input; its number is what marks hold.
    std::uint32_t add_origin(const Origin& origin);
    const Origin& origin(std::uint32_t number) const { return origins()[number]; }
    std::size_t origin_count() const { return origins().size(); }

    const Environment& environment;
    Budget budget;
    StackGuard stack;

  private:
    const std::vector<Origin>& origins() const { return input_ == nullptr ? origins_ : input_->origins_; }

    const Runtime* input_ = nullptr;
    std::vector<Origin> origins_{Origin{}};  // the first is the template's
    std::vector<std::shared_ptr<Namespace>> namespaces_;
};

/// What a call was given.
struct Arguments {
    std::vector<Value> positional;
    std::vector<std::pair<std::string_view, Value>> named;
};

/// The arguments of a call under the names of the parameters. Refuses too many, unknown and doubled ones.
class Parameters {
  public:
    /// `callee` is for messages: "the filter 'join'". The first `required` must be given.
    Parameters(Runtime& runtime, std::string_view callee, const Arguments& arguments,
               std::initializer_list<std::string_view> names, std::size_t required = 0);

    bool has(std::size_t index) const { return values_[index] != nullptr; }
    const Value& operator[](std::size_t index) const { return *values_[index]; }
    bool truth(std::size_t index, bool otherwise) const {
        return has(index) ? is_true(*values_[index]) : otherwise;
    }
    /// An integer; `otherwise` where there is none.
    std::int64_t whole(std::size_t index, std::int64_t otherwise) const;
    /// A string; fails for anything else.
    const Text& text(std::size_t index) const;

  private:
    Runtime& runtime_;
    std::string callee_;
    std::vector<const Value*> values_;
};

}  // namespace qlora::jinja
