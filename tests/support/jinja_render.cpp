// Renders many templates in one process. Each line of the file is a JSON object: `template`, `variables`, and
// the numbers of `clock` from the year to the microsecond; each line of the output is the result of one. For
// the peer tests.
#include <chrono>
#include <exception>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <type_traits>

#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/jinja/template.h"

namespace {

using qlora::Json;
using namespace qlora::jinja;

LocalTime clock_of(const Json& numbers) {
    return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]};
}

/// A share of the limits on a rendering.
Limits limits_of(double share) {
    Limits limits;
    const auto part = [&](auto& limit) {
        limit = static_cast<std::remove_reference_t<decltype(limit)>>(static_cast<double>(limit) * share);
    };
    part(limits.steps);
    part(limits.output_bytes);
    part(limits.live_bytes);
    part(limits.list_items);
    return limits;
}

Json line_of(const Rendering& rendering) {
    Json parts = Json::array(), generation = Json::array();
    for (const Part& part : rendering.parts) {
        const Origin& origin = rendering.origin_of(part);
        const std::string kind = origin.kind == Origin::Kind::kTemplate  ? "template"
                                 : origin.kind == Origin::Kind::kMessage ? "message"
                                                                         : "input";
        parts.push_back(
            {part.range.begin, part.range.end, kind, origin.message, origin.pointer, origin.is_key});
    }
    for (const ByteRange& range : rendering.generation) generation.push_back({range.begin, range.end});
    return {{"text", rendering.text}, {"parts", parts}, {"generation", generation}};
}

std::string word(RenderError::Kind kind) {
    return kind == RenderError::Kind::kRefused  ? "refused"
           : kind == RenderError::Kind::kBudget ? "budget"
                                                : "fault";
}

Json result_of(const Json& request) {
    // Few templates and many conversations: each is parsed once.
    static std::map<std::string, Template> parsed;
    const auto begin = std::chrono::steady_clock::now();
    Json out;
    try {
        const std::string source = request["template"];
        auto found = parsed.find(source);
        if (found == parsed.end()) found = parsed.emplace(source, Template::parse(source, "template")).first;
        Environment environment;
        if (request.contains("clock")) environment.clock = clock_of(request["clock"]);
        if (request.contains("share_of_limits")) environment.limits = limits_of(request["share_of_limits"]);
        out = line_of(found->second.render(request["variables"], environment));
    } catch (const SyntaxError& error) {
        out = {{"error", error.what()}, {"kind", "syntax"}};
    } catch (const RenderError& error) {
        out = {{"error", error.what()}, {"kind", word(error.kind())}};
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    out["seconds"] = seconds.count();
    return out;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 2) throw qlora::ConfigError("jinja_render FILE");
        std::ifstream file(argv[1]);
        for (std::string line; std::getline(file, line);)
            std::cout << result_of(Json::parse(line)).dump() << "\n";
        return 0;
    } catch (const std::exception& error) {
        std::cerr << error.what() << "\n";
        return 2;
    }
}
