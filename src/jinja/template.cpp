#include "qlora/jinja/template.h"

#include <utility>

#include "input.h"
#include "parser.h"
#include "renderer.h"

namespace qlora::jinja {
namespace {

// The parts and generation ranges that the runs of a text say, with the origins that occur.
Rendering rendering_of(const Runtime& runtime, const Text& text) {
    constexpr auto kUnused = static_cast<std::size_t>(-1);
    Rendering out;
    out.text = text.bytes;
    out.parts.reserve(text.runs.size() + 1);
    out.origins.emplace_back();
    std::vector<std::size_t> places(runtime.origin_count(), kUnused);  // of each origin in `out`
    places.front() = 0;
    std::uint32_t generation = 0;
    std::size_t begin = 0;
    const auto add = [&](std::size_t end, Mark mark) {
        if (end == begin) return;
        std::size_t& place = places[mark.origin];
        if (place == kUnused) {
            place = out.origins.size();
            out.origins.push_back(runtime.origin(mark.origin));
        }
        if (!out.parts.empty() && out.parts.back().origin == place) {
            out.parts.back().range.end = end;
        } else {
            out.parts.push_back({{begin, end}, place});
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

/// What a conversation was read to. Its values give back to the runtime what they took, so that one ends
/// last.
struct Conversation::Read {
    Read(const Environment& environment_, const std::string& name)
        : environment(environment_), runtime(environment, name) {}

    Environment environment;
    Runtime runtime;
    Variables variables;
    std::vector<Value> messages;
};

Conversation::Conversation(std::unique_ptr<Read> read) : read_(std::move(read)) {}
Conversation::Conversation(Conversation&&) noexcept = default;
Conversation::~Conversation() = default;

Template::Template(std::shared_ptr<const Program> program) : program_(std::move(program)) {}

Template Template::parse(std::string_view source, const std::string& name, const Limits& limits) {
    return Template(parse_program(source, name, limits));
}

Rendering Template::render(const Json& variables, const Environment& environment) const {
    Runtime runtime(environment, program_->name);
    const Variables read = input_variables(runtime, variables);
    Renderer renderer(runtime, read, {{"add_generation_prompt", Value::boolean(false)}});
    return rendering_of(runtime, *renderer.run(*program_));
}

Conversation Template::read(const std::vector<const Json*>& messages, const Json& others,
                            const Environment& environment) const {
    auto read = std::make_unique<Conversation::Read>(environment, program_->name);
    read->variables = input_variables(read->runtime, others);
    read->messages = input_messages(read->runtime, messages);
    return Conversation(std::move(read));
}

Rendering Template::render(const Conversation& conversation, std::size_t messages,
                           bool add_generation_prompt) const {
    const Conversation::Read& read = *conversation.read_;
    Runtime runtime(&read.runtime);
    const auto end = read.messages.begin() + static_cast<std::ptrdiff_t>(messages);
    Value list(Kind::kList,
               std::make_shared<const List>(&runtime.budget, std::vector<Value>(read.messages.begin(), end)));
    Renderer renderer(
        runtime, read.variables,
        {{"messages", std::move(list)}, {"add_generation_prompt", Value::boolean(add_generation_prompt)}});
    return rendering_of(runtime, *renderer.run(*program_));
}

bool Template::has_generation_blocks() const {
    return program_->has_generation;
}

bool Template::mentions(std::string_view variable) const {
    return program_->names.contains(variable);
}

}  // namespace qlora::jinja
