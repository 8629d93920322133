#include "functions.h"

#include "compare.h"
#include "iteration.h"
#include "messages.h"
#include "print.h"

namespace qlora::jinja {
namespace {

// The entries of dict(mapping, name=value, ...).
Dict::Entries entries_of(Runtime& runtime, std::string_view callee, const Arguments& arguments) {
    if (arguments.positional.size() > 1)
        runtime.fail(std::string(callee) + " takes at most one argument without a name");
    Dict::Entries entries;
    const auto put = [&](const Value& key, const Value& value) {
        check_hashable(runtime.budget, key);
        runtime.budget.step(1 + static_cast<std::int64_t>(entries.size() / 16));
        for (auto& [other, old] : entries) {
            if (!equal(runtime.budget, other, key)) continue;
            old = value;
            return;
        }
        entries.emplace_back(key, value);
    };
    if (!arguments.positional.empty()) {
        const Value& source = arguments.positional.front();
        if (source.is(Kind::kDict)) {
            for (const auto& [key, value] : source.dict().entries) put(key, value);
        } else {
            for (const Value& pair : items_of(runtime, source)) {
                const std::vector<Value> parts = items_of(runtime, pair);
                if (parts.size() != 2)
                    runtime.fail(std::string(callee) + " needs pairs of a key and a value");
                put(parts[0], parts[1]);
            }
        }
    }
    for (const auto& [name, value] : arguments.named) put(runtime.text(name), value);
    return entries;
}

Value make_namespace(Runtime& runtime, const Arguments& arguments) {
    const auto space = runtime.make_namespace();
    for (const auto& [key, value] : entries_of(runtime, "namespace", arguments)) {
        if (!key.is_text()) runtime.fail("an attribute of a namespace needs a string as its name");
        if (key.text().bytes.starts_with("_"))
            runtime.fail("a namespace cannot have the attribute " + in_quotes(key.text().bytes) +
                         ", which begins with an underscore");
        space->set(key.shared_text(), value);
    }
    return {Kind::kNamespace, space};
}

Value make_range(Runtime& runtime, const Arguments& arguments) {
    const Parameters given(runtime, "range", arguments, {{}, {}, {}}, 1);
    const std::int64_t first = given.whole(0, 0);
    const std::int64_t start = given.has(1) ? first : 0, stop = given.has(1) ? given.whole(1, 0) : first;
    const std::int64_t step = given.whole(2, 1);
    if (step == 0) runtime.fail("the step of a range is zero");
    __int128 count = 0;
    if (step > 0 ? start < stop : start > stop) {
        const __int128 distance =
            step > 0 ? static_cast<__int128>(stop) - start : static_cast<__int128>(start) - stop;
        const __int128 width = step > 0 ? static_cast<__int128>(step) : -static_cast<__int128>(step);
        count = (distance - 1) / width + 1;
    }
    const auto most = runtime.budget.limits().list_items;
    if (count > static_cast<__int128>(most))
        runtime.budget.exceed("a range of more than " + std::to_string(most) + " items is made");
    return {Kind::kRange, std::make_shared<const Range>(&runtime.budget, start, stop, step,
                                                        static_cast<std::int64_t>(count))};
}

}  // namespace

std::optional<Function> find_function(std::string_view name) {
    if (name == "namespace") return Function::kNamespace;
    if (name == "raise_exception") return Function::kRaiseException;
    if (name == "strftime_now") return Function::kStrftimeNow;
    if (name == "range") return Function::kRange;
    if (name == "dict") return Function::kDict;
    return {};
}

Value call_function(Runtime& runtime, Function function, const Arguments& arguments) {
    switch (function) {
        case Function::kNamespace:
            return make_namespace(runtime, arguments);
        case Function::kRange:
            return make_range(runtime, arguments);
        case Function::kDict:
            return runtime.dict(entries_of(runtime, "dict", arguments));
        case Function::kStrftimeNow: {
            const Parameters given(runtime, "strftime_now", arguments, {"format"}, 1);
            return runtime.text(format_time(runtime, runtime.environment.clock, given.text(0).view()));
        }
        case Function::kRaiseException:
            break;
    }
    const Parameters given(runtime, "raise_exception", arguments, {"message"}, 1);
    runtime.budget.refuse("the template refuses the conversation: " +
                          visible(text_of(runtime, given[0])->view()));
}

}  // namespace qlora::jinja
