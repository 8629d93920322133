#include "tool_calls.h"

#include "qlora/core/error.h"
#include "row_fields.h"

namespace qlora::data::formats {
namespace {

std::string name_of_function(const Json& function, const std::string& where) {
    const auto name = function.find("name");
    if (name == function.end() || !name->is_string() || says_nothing(*name))
        throw DataError(where + " must have the function's \"name\", a string");
    return name->get<std::string>();
}

Json arguments_of(const Json& function, const std::string& where) {
    const auto found = function.find("arguments");
    if (found == function.end()) throw DataError(where + " has no \"arguments\"; a call without any has {}");
    if (says_nothing(*found)) return Json::object();
    return parsed_value(*found, Json::value_t::object, "\"arguments\" of " + where);
}

/// A copy whose `function` is an object: the one that is there, or one of the fields that describe it.
Json framed(const Json& given, const std::string& where) {
    if (!given.is_object()) throw DataError(where + " must be an object, found " + type_of(given));
    const auto type = given.find("type");
    if (type != given.end() && !type->is_null() && *type != "function")
        throw DataError(where + " is of the type " +
                        shown(type->is_string() ? type->get<std::string>() : type->dump()) +
                        "; only functions are known");
    const auto function = given.find("function");
    if (function != given.end() && !function->is_null()) {
        if (!function->is_object())
            throw DataError("\"function\" of " + where + " must be an object, found " + type_of(*function));
        return given;
    }
    Json inner = Json::object(), out = {{"type", "function"}};
    for (const auto& [name, value] : given.items()) {
        if (name == "id") {
            out[name] = value;
        } else if (name != "type" && name != "function") {
            inner[name] = value;
        }
    }
    out["function"] = std::move(inner);
    return out;
}

}  // namespace

Json normal_tool_calls(const Json& calls, const std::string& where) {
    Json out = Json::array();
    const Json list = calls.is_object() ? Json::array({calls}) : calls;
    for (const Json& given : list) {
        const std::string place = "call " + std::to_string(out.size()) + " of " + where;
        Json call = framed(given, place);
        Json& function = call["function"];
        name_of_function(function, place);
        function["arguments"] = arguments_of(function, place);
        out.push_back(std::move(call));
    }
    return out;
}

Json normal_tools(const Json& tools, const std::string& where) {
    Json out = Json::array();
    for (const Json& given : tools) {
        const std::string place = "entry " + std::to_string(out.size()) + " of " + where;
        Json tool =
            framed(given.is_string() ? parsed_value(given, Json::value_t::object, place) : given, place);
        name_of_function(tool["function"], place);
        out.push_back(std::move(tool));
    }
    return out;
}

}  // namespace qlora::data::formats
