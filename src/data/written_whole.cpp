#include "written_whole.h"

#include <string_view>

#include "white_space.h"

namespace qlora::data {
namespace {

std::string fault_of_text(const std::string& found, const std::string& value, const std::string& name) {
    const std::string_view wanted = strip(value);
    if (wanted.empty() || strip(found) == wanted) return {};
    return (found.empty() ? "leaves out " : "changes ") + name;
}

std::string escaped(const std::string& value, bool ascii) {
    const std::string quoted = Json(value).dump(-1, ' ', ascii);
    return quoted.substr(1, quoted.size() - 2);
}

/// A value of a call, which templates write as it is or in JSON.
std::string fault_of_call(const WrittenValues& written, std::size_t place, const std::string& pointer,
                          const Json& value, const std::string& name) {
    if (value.is_structured()) {
        for (const auto& [key, inner] : value.items()) {
            std::string step = key;
            for (std::size_t at = 0; (at = step.find_first_of("~/", at)) != std::string::npos; at += 2)
                step.replace(at, 1, step[at] == '~' ? "~0" : "~1");
            std::string fault = fault_of_call(written, place, pointer + "/" + step, inner, name + "." + key);
            if (!fault.empty()) return fault;
        }
        return {};
    }
    if (!value.is_string()) return {};
    const auto& text = value.get_ref<const std::string&>();
    const std::string found = written.text_of(place, pointer);
    if (found == escaped(text, false) || found == escaped(text, true)) return {};
    return fault_of_text(found, text, name);
}

}  // namespace

std::string fault_of_writing(const WrittenValues& written, std::size_t place, const Message& message) {
    std::string fault = fault_of_text(written.text_of(place, "/content"), message.content(), "the content");
    if (!fault.empty()) return fault;
    const std::string reasoning =
        written.text_of(place, "/reasoning_content") + written.text_of(place, "/thinking");
    fault = fault_of_text(reasoning, message.reasoning(), "reasoning_content");
    if (!fault.empty() || !message.calls_tools()) return fault;
    const Json& calls = message.object().at("tool_calls");
    for (std::size_t i = 0; i < calls.size(); ++i) {
        const std::string pointer = "/tool_calls/" + std::to_string(i) + "/function";
        const auto function = calls[i].find("function");
        if (function == calls[i].end()) continue;
        for (const char* name : {"name", "arguments"}) {
            if (!function->contains(name)) continue;
            fault = fault_of_call(written, place, pointer + "/" + name, function->at(name),
                                  "tool_calls." + std::string(name));
            if (!fault.empty()) return fault;
        }
    }
    return {};
}

}  // namespace qlora::data
