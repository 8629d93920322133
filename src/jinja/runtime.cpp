#include "runtime.h"

#include <algorithm>

#include "messages.h"

namespace qlora::jinja {

Runtime::~Runtime() {
    for (const auto& space : namespaces_) {
        auto entries = std::move(space->entries);
        space->entries.clear();
    }
}

std::uint32_t Runtime::add_origin(const Origin& origin) {
    budget.expect(sizeof(Origin) + origin.pointer.size());
    origins_.push_back(origin);
    return static_cast<std::uint32_t>(origins_.size() - 1);
}

Value Runtime::text(std::string_view bytes, Mark mark) {
    TextBuilder out(budget);
    out.append(bytes, mark);
    return out.finish();
}

Value Runtime::list(std::vector<Value> items) {
    budget.check_items(items.size());
    return {Kind::kList, std::make_shared<const List>(&budget, std::move(items))};
}

Value Runtime::tuple(std::vector<Value> items) {
    budget.check_items(items.size());
    return {Kind::kTuple, std::make_shared<const List>(&budget, std::move(items))};
}

Value Runtime::view(std::vector<Value> items, std::string_view type) {
    return {Kind::kView, std::make_shared<const List>(&budget, std::move(items), type)};
}

Value Runtime::dict(Dict::Entries entries) {
    return {Kind::kDict, std::make_shared<const Dict>(&budget, std::move(entries))};
}

std::shared_ptr<Namespace> Runtime::make_namespace() {
    namespaces_.push_back(std::make_shared<Namespace>(&budget));
    return namespaces_.back();
}

Parameters::Parameters(Runtime& runtime, std::string_view callee, const Arguments& arguments,
                       std::initializer_list<std::string_view> names, std::size_t required)
    : runtime_(runtime), callee_(callee), values_(names.size(), nullptr) {
    if (arguments.positional.size() > names.size())
        runtime.fail(callee_ + " takes at most " + std::to_string(names.size()) + " arguments, not " +
                     std::to_string(arguments.positional.size()));
    for (std::size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
    for (const auto& [name, value] : arguments.named) {
        const auto found = std::find(names.begin(), names.end(), name);
        if (found == names.end()) runtime.fail(callee_ + " has no parameter " + in_quotes(name));
        const Value*& place = values_[static_cast<std::size_t>(found - names.begin())];
        if (place != nullptr) runtime.fail(callee_ + " is given " + in_quotes(name) + " twice");
        place = &value;
    }
    for (std::size_t i = 0; i < required; ++i)
        if (values_[i] == nullptr)
            runtime.fail(callee_ + " needs its argument " + in_quotes(names.begin()[i]));
}

std::int64_t Parameters::whole(std::size_t index, std::int64_t otherwise) const {
    if (!has(index)) return otherwise;
    if (!values_[index]->is_whole())
        runtime_.fail(callee_ + " needs an integer, not a value of type " +
                      std::string(type_name(*values_[index])));
    return values_[index]->whole();
}

const Text& Parameters::text(std::size_t index) const {
    if (!has(index) || !values_[index]->is_text())
        runtime_.fail(callee_ + " needs a string" +
                      (has(index) ? ", not a value of type " + std::string(type_name(*values_[index])) : ""));
    return values_[index]->text();
}

}  // namespace qlora::jinja
