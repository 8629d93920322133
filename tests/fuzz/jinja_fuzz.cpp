// A chat template of any bytes: it renders or ends with a sentence, and the parts of what it renders are
// right.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "qlora/core/utf8.h"
#include "qlora/jinja/template.h"

namespace {

using namespace qlora;
using namespace qlora::jinja;

const Json& variables() {
    static const Json made = {
        {"messages",
         {{{"role", "user"}, {"content", " a <b> \"한국\" \n"}},
          {{"role", "assistant"},
           {"content", "x y"},
           {"reasoning_content", "why"},
           {"tool_calls", {{{"function", {{"name", "f"}, {"arguments", {{"k", "v"}, {"n", 5}}}}}}}}}}},
        {"tools", {{{"type", "function"}, {"function", {{"name", "f"}, {"parameters", Json::object()}}}}}},
        {"add_generation_prompt", true},
        {"bos_token", "<s>"}};
    return made;
}

void check(bool holds) {
    if (!holds) std::abort();
}

void check_rendering(const Rendering& rendering) {
    check(find_invalid_utf8(rendering.text) == std::string_view::npos);
    std::size_t end = 0;
    for (const Part& part : rendering.parts) {
        check(part.range.begin == end && part.range.end > end && part.origin < rendering.origins.size());
        end = part.range.end;
    }
    check(end == rendering.text.size());
    end = 0;
    for (const ByteRange& range : rendering.generation) {
        check(range.begin >= end && range.end > range.begin && range.end <= rendering.text.size());
        end = range.end;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Environment environment;
    environment.limits.steps = 100'000;
    environment.limits.live_bytes = 4 << 20;
    try {
        const std::string_view source(reinterpret_cast<const char*>(data), size);
        const Template parsed = Template::parse(source, "fuzz", environment.limits);
        check_rendering(parsed.render(variables(), environment));
    } catch (const Error&) {
    }
    return 0;
}
