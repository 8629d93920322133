#include "qlora/data/data_config.h"

#include <algorithm>
#include <array>
#include <set>

#include "own_variables.h"

namespace qlora {
namespace data {
namespace {

// The fields that the formats in src/data/formats read.
constexpr std::array<std::string_view, 14> kFields = {
    "instruction",          "input", "output", "prompt",  "completion", "messages",
    "conversations",        "text",  "system", "history", "tools",      "documents",
    "chat_template_kwargs", "task"};

}  // namespace

const std::string* ColumnNames::column_of(std::string_view field) const {
    for (const auto& [name, column] : columns) {
        if (name == field) return &column;
    }
    return nullptr;
}

}  // namespace data

std::string FieldType<data::ColumnNames>::read(const Json& value, const FieldRule& rule,
                                               data::ColumnNames& out) {
    if (!fits(value)) return wrong_type("an object that gives a column's name for a field's", value);
    data::ColumnNames names;
    std::string problems = FieldType<Names>::read(value, rule, names.columns);
    const auto add = [&](const std::string& problem) {
        problems += (problems.empty() ? "" : "; ") + problem;
    };
    std::set<std::string> columns;
    for (const auto& [field, column] : names.columns) {
        if (std::find(data::kFields.begin(), data::kFields.end(), field) == data::kFields.end()) {
            std::string known;
            for (const std::string_view name : data::kFields)
                known += (known.empty() ? "" : ", ") + std::string(name);
            add(Json(field).dump() + " is no field of a row; the fields are " + known);
        }
        if (column.empty()) add("[" + Json(field).dump() + "] must name a column");
        if (!column.empty() && !columns.insert(column).second)
            add("the column " + Json(column).dump() + " is given to two fields");
    }
    if (problems.empty()) out = std::move(names);
    return problems;
}

std::string FieldType<data::TemplateChoice>::read(const Json& value, const FieldRule& rule,
                                                  data::TemplateChoice& out) {
    data::TemplateChoice choice;
    const std::string problem = FieldType<data::TemplateName>::read(value, rule, choice.name);
    if (!problem.empty()) {
        if (!value.is_string()) return wrong_type(kind(), value);
        const auto& text = value.get_ref<const std::string&>();
        // What has neither a folder nor an ending is a name that is spelled wrongly.
        if (text.find('/') == std::string::npos && text.find('.') == std::string::npos)
            return problem + "; a file with a template is given by its path";
        choice.file = text;
    }
    out = std::move(choice);
    return "";
}

std::string FieldType<data::TemplateArguments>::read(const Json& value, const FieldRule&,
                                                     data::TemplateArguments& out) {
    if (!fits(value)) return wrong_type(kind(), value);
    std::string problems;
    for (const std::string& name : data::own_variables_in(value))
        problems += (problems.empty() ? "" : "; ") + ("[\"" + name + "\"] is the rows' own; leave it out");
    if (problems.empty()) out.values = value.empty() ? Json() : value;
    return problems;
}

std::string FieldType<data::TemplateObjects>::read(const Json& value, const FieldRule&,
                                                   data::TemplateObjects& out) {
    const auto is_object = [](const Json& item) { return item.is_object(); };
    if (!fits(value) || !std::all_of(value.begin(), value.end(), is_object)) return wrong_type(kind(), value);
    out.list = value.empty() ? Json() : value;
    return "";
}

std::string FieldType<data::RowPart>::read(const Json& value, const FieldRule&, data::RowPart& out) {
    data::RowPart part;
    bool is_read = false;
    if (value.is_number_integer()) {
        is_read = FieldType<std::int64_t>::read(value, {.min = 1}, part.rows).empty();
    } else if (value.is_number()) {
        part.share = value.get<double>();
        is_read = part.share > 0 && part.share < 1;
    }
    if (!is_read)
        return wrong_type("a path, a share of the training rows (above 0, below 1) or a whole number of them",
                          value);
    out = part;
    return "";
}

}  // namespace qlora
