#include "filters.h"

#include <algorithm>
#include <array>

#include "messages.h"
#include "sequence_filters.h"
#include "text_filters.h"

namespace qlora::jinja {
namespace {

using Filter = Value (*)(Runtime& runtime, const Value& value, const Arguments& arguments);

struct NamedFilter {
    std::string_view name;
    Filter run;
};

constexpr std::array<NamedFilter, 33> kFilters = {{
    {"abs", absolute_filter},
    {"capitalize", capitalize_filter},
    {"count", length_filter},
    {"d", default_filter},
    {"default", default_filter},
    {"dictsort", dictsort_filter},
    {"first", first_filter},
    {"float", float_filter},
    {"indent", indent_filter},
    {"int", int_filter},
    {"items", items_filter},
    {"join", join_filter},
    {"last", last_filter},
    {"length", length_filter},
    {"list", list_filter},
    {"lower", lower_filter},
    {"map", map_filter},
    {"max", max_filter},
    {"min", min_filter},
    {"reject", reject_filter},
    {"rejectattr", rejectattr_filter},
    {"replace", replace_filter},
    {"reverse", reverse_filter},
    {"safe", safe_filter},
    {"select", select_filter},
    {"selectattr", selectattr_filter},
    {"sort", sort_filter},
    {"string", string_filter},
    {"title", title_filter},
    {"tojson", tojson_filter},
    {"trim", trim_filter},
    {"unique", unique_filter},
    {"upper", upper_filter},
}};

const NamedFilter* filter_named(std::string_view name) {
    const auto found = std::find_if(kFilters.begin(), kFilters.end(),
                                    [&](const NamedFilter& filter) { return filter.name == name; });
    return found != kFilters.end() ? &*found : nullptr;
}

}  // namespace

bool is_filter(std::string_view name) {
    return filter_named(name) != nullptr;
}

Value run_filter(Runtime& runtime, std::string_view name, const Value& value, const Arguments& arguments) {
    runtime.budget.step();
    runtime.check_stack();
    const NamedFilter* filter = filter_named(name);
    if (filter == nullptr) runtime.fail("the filter " + in_quotes(name) + " is not supported");
    return filter->run(runtime, value, arguments);
}

}  // namespace qlora::jinja
