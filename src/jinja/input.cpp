#include "input.h"

#include <algorithm>
#include <array>
#include <limits>

#include "messages.h"
#include "qlora/core/utf8.h"

namespace qlora::jinja {
namespace {

// The names under which reasoning may stand in a message; the first one that is there counts.
constexpr std::array<std::string_view, 3> kReasoning = {"reasoning_content", "thinking", "reasoning"};

std::string pointer_step(std::string_view key) {
    std::string out = "/";
    if (key.find_first_of("~/") == std::string_view::npos) return out.append(key);
    for (const char c : key) c == '~' ? out += "~0" : c == '/' ? out += "~1" : out += c;
    return out;
}

class InputReader {
  public:
    explicit InputReader(Runtime& runtime) : runtime_(runtime) {}

    Value read(const Json& json, const Origin& place) {
        runtime_.check_stack();
        runtime_.budget.step();
        switch (json.type()) {
            case Json::value_t::null:
                return Value::none(mark_of(place));
            case Json::value_t::boolean:
                return Value::boolean(json.get<bool>(), mark_of(place));
            case Json::value_t::number_integer:
                return Value::integer(json.get<std::int64_t>(), mark_of(place));
            case Json::value_t::number_unsigned: {
                const auto value = json.get<std::uint64_t>();
                if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
                    runtime_.fail("the integer at " + in_quotes(place.pointer) + " is beyond 64 bits");
                return Value::integer(static_cast<std::int64_t>(value), mark_of(place));
            }
            case Json::value_t::number_float:
                return Value::real(json.get<double>(), mark_of(place));
            case Json::value_t::string:
                return text(json.get_ref<const std::string&>(), place);
            case Json::value_t::array: {
                std::vector<Value> items;
                items.reserve(json.size());
                for (std::size_t i = 0; i < json.size(); ++i)
                    items.push_back(read(json[i], below(place, std::to_string(i))));
                return {Kind::kList, std::make_shared<const List>(&runtime_.budget, std::move(items))};
            }
            case Json::value_t::object: {
                Dict::Entries entries;
                entries.reserve(json.size());
                for (const auto& [key, value] : json.items()) entries.push_back(member(key, value, place));
                return runtime_.dict(std::move(entries));
            }
            default:
                runtime_.fail("the input holds a value that JSON has not");
        }
    }

    /// messages[index] as transformers gives it to the template.
    Value message(const Json& json, std::size_t index) {
        if (!json.is_object()) runtime_.fail("a message is no object");
        const Origin place{Origin::Kind::kMessage, index, "", false};
        Dict::Entries entries;
        for (const auto& [key, value] : json.items())
            if (!value.is_null()) entries.push_back(member(key, value, place));
        add_reasoning(entries);
        return runtime_.dict(std::move(entries));
    }

  private:
    static Origin below(const Origin& place, std::string_view key) {
        return {place.kind, place.message, place.pointer + pointer_step(key), false};
    }

    Mark mark_of(const Origin& place) { return {runtime_.add_origin(place), 0}; }

    Value text(const std::string& bytes, const Origin& place) {
        if (find_invalid_utf8(bytes) != std::string_view::npos)
            runtime_.fail("the text at " + in_quotes(place.pointer) + " is not UTF-8");
        return runtime_.text(bytes, mark_of(place));
    }

    std::pair<Value, Value> member(const std::string& key, const Json& value, const Origin& place) {
        Origin at = below(place, key);
        at.is_key = true;
        Value name = text(key, at);
        at.is_key = false;
        return {std::move(name), read(value, at)};
    }

    // The text is that of the field which is there, and so is its origin.
    void add_reasoning(Dict::Entries& entries) {
        const auto find = [&](std::string_view name) {
            return std::find_if(entries.begin(), entries.end(),
                                [&](const auto& entry) { return entry.first.text().bytes == name; });
        };
        for (const std::string_view name : kReasoning) {
            const auto found = find(name);
            if (found == entries.end()) continue;
            const Value reasoning = found->second;
            if (const auto first = find("thinking"); first != entries.end()) {
                std::rotate(entries.begin(), first, first + 1);
            } else {
                entries.insert(entries.begin(), {runtime_.text("thinking"), reasoning});
            }
            if (find("reasoning_content") == entries.end())
                entries.emplace_back(runtime_.text("reasoning_content"), reasoning);
            return;
        }
    }

    Runtime& runtime_;
};

}  // namespace

Variables input_variables(Runtime& runtime, const Json& variables) {
    if (!variables.is_object()) runtime.fail("the variables of a template are no object");
    InputReader reader(runtime);
    Variables out;
    for (const std::string_view name : {"tools", "documents"})
        if (!variables.contains(name)) out.emplace_back(name, Value::none());
    for (const auto& [name, value] : variables.items()) {
        if (name != "messages") {
            out.emplace_back(name, reader.read(value, {Origin::Kind::kInput, 0, pointer_step(name), false}));
            continue;
        }
        if (!value.is_array()) runtime.fail("the messages are no list");
        std::vector<const Json*> messages;
        for (const Json& message : value) messages.push_back(&message);
        out.emplace_back(name, Value(Kind::kList, std::make_shared<const List>(
                                                      &runtime.budget, input_messages(runtime, messages))));
    }
    return out;
}

std::vector<Value> input_messages(Runtime& runtime, const std::vector<const Json*>& messages) {
    InputReader reader(runtime);
    std::vector<Value> out;
    out.reserve(messages.size());
    for (std::size_t i = 0; i < messages.size(); ++i) out.push_back(reader.message(*messages[i], i));
    return out;
}

}  // namespace qlora::jinja
