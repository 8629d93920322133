#include "qlora/jinja/template.h"

#include <unordered_map>

#include "input.h"
#include "parser.h"
#include "renderer.h"

namespace qlora::jinja {
namespace {

// The parts and generation ranges that the runs of a text say, with the origins that occur.
Rendering rendering_of(const Runtime& runtime, const Text& text) {
    Rendering out;
    out.text = text.bytes;
    out.origins.emplace_back();
    std::unordered_map<std::uint32_t, std::size_t> places = {{0, 0}};
    std::uint32_t generation = 0;
    std::size_t begin = 0;
    const auto add = [&](std::size_t end, Mark mark) {
        if (end == begin) return;
        const auto [place, is_new] = places.try_emplace(mark.origin, out.origins.size());
        if (is_new) out.origins.push_back(runtime.origins[mark.origin]);
        if (!out.parts.empty() && out.parts.back().origin == place->second) {
            out.parts.back().range.end = end;
        } else {
            out.parts.push_back({{begin, end}, place->second});
        }
        if (mark.generation != 0 && mark.generation == generation) {
            out.generation.back().end = end;
        } else if (mark.generation != 0) {
            out.generation.push_back({begin, end});
        }
        generation = mark.generation;
        begin = end;
    };
    for (const Run& run : text.runs) add(run.end, run.mark);
    add(text.bytes.size(), {});
    return out;
}

}  // namespace

Template::Template(std::shared_ptr<const Program> program) : program_(std::move(program)) {}

Template Template::parse(std::string_view source, const std::string& name, const Limits& limits) {
    return Template(parse_program(source, name, limits));
}

Rendering Template::render(const Json& variables, const Environment& environment) const {
    Runtime runtime(environment, program_->name);
    Renderer renderer(runtime, input_variables(runtime, variables));
    return rendering_of(runtime, *renderer.run(*program_));
}

bool Template::has_generation_blocks() const {
    return program_->has_generation;
}

bool Template::mentions(std::string_view variable) const {
    return program_->names.contains(variable);
}

}  // namespace qlora::jinja
