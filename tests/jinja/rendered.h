#pragma once

#include <string>

#include "qlora/jinja/template.h"

namespace qlora::jinja {

inline Rendering render(const std::string& source, const Json& variables = Json::object(),
                        const Environment& environment = {}) {
    return Template::parse(source, "t", environment.limits).render(variables, environment);
}

inline std::string text_of(const std::string& source, const Json& variables = Json::object()) {
    return render(source, variables).text;
}

/// The parts of a rendering, one after the other: template text as it is, what a message says as
/// <0/content:text>, other input as <*/tools/0:text>, a member's name with a # before the text.
inline std::string with_origins(const Rendering& rendering) {
    std::string out;
    for (const Part& part : rendering.parts) {
        const Origin& origin = rendering.origin_of(part);
        const std::string text = rendering.text.substr(part.range.begin, part.range.end - part.range.begin);
        if (origin.kind == Origin::Kind::kTemplate) {
            out += text;
        } else {
            out += "<" + (origin.kind == Origin::Kind::kMessage ? std::to_string(origin.message) : "*") +
                   origin.pointer + ":" + (origin.is_key ? "#" : "") + text + ">";
        }
    }
    return out;
}

/// The text of each generation range, between bars.
inline std::string generated(const Rendering& rendering) {
    std::string out = "|";
    for (const ByteRange& range : rendering.generation)
        out += rendering.text.substr(range.begin, range.end - range.begin) + "|";
    return out;
}

/// The sentence of the error that a template ends with; empty when it ends without one.
inline std::string error_of(const std::string& source, const Json& variables = Json::object(),
                            const Environment& environment = {}) {
    try {
        render(source, variables, environment);
        return {};
    } catch (const Error& error) {
        return error.what();
    }
}

}  // namespace qlora::jinja
