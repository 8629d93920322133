#include "answer_text.h"

#include <algorithm>

namespace qlora::data {
namespace {

using jinja::Origin;

bool is_special_token(const std::string& pointer, const std::vector<std::string>& names) {
    return pointer.starts_with('/') &&
           std::find(names.begin(), names.end(), pointer.substr(1)) != names.end();
}

}  // namespace

std::vector<InputRun> input_runs(const jinja::Rendering& rendering,
                                 const std::vector<std::string>& special_names) {
    std::vector<InputRun> runs;
    for (const jinja::Part& part : rendering.parts) {
        const Origin& origin = rendering.origin_of(part);
        if (part.range.begin == part.range.end || origin.kind == Origin::Kind::kTemplate) continue;
        if (origin.kind == Origin::Kind::kMessage && origin.pointer == "/role" && !origin.is_key) continue;
        if (origin.kind == Origin::Kind::kInput && is_special_token(origin.pointer, special_names)) continue;
        InputRun run{.range = {part.range.begin, part.range.end}};
        if (origin.kind == Origin::Kind::kMessage) run.message = origin.message;
        const bool joins =
            !runs.empty() && runs.back().message == run.message && runs.back().range.end == run.range.begin;
        if (joins) {
            runs.back().range.end = run.range.end;
        } else {
            runs.push_back(run);
        }
    }
    return runs;
}

MessagePlace place_of(std::size_t message, const std::vector<InputRun>& runs, std::size_t text_size) {
    MessagePlace out{.before = text_size};
    const auto is_own = [&](const InputRun& run) { return run.message == message; };
    const auto first = std::find_if(runs.begin(), runs.end(), is_own);
    if (first != runs.end()) {
        const auto last = std::find_if(runs.rbegin(), runs.rend(), is_own).base();
        out.own = {first->range.begin, std::prev(last)->range.end};
        out.is_whole = std::all_of(first, last, is_own);
        if (first != runs.begin()) out.after = std::prev(first)->range.end;
        if (last != runs.end()) out.before = last->range.begin;
        return out;
    }
    // It wrote nothing: it stands behind the last run of an earlier message.
    for (const InputRun& run : runs) {
        const bool is_earlier = run.message == InputRun::kNoMessage || run.message < message;
        if (is_earlier) {
            out.after = run.range.end;
        } else {
            out.before = run.range.begin;
            break;
        }
    }
    out.own = {out.after, out.after};
    return out;
}

std::string written(const jinja::Rendering& rendering, std::size_t message, std::string_view pointer) {
    std::string out;
    for (const jinja::Part& part : rendering.parts) {
        const Origin& origin = rendering.origin_of(part);
        const bool is_it = origin.kind == Origin::Kind::kMessage && origin.message == message &&
                           !origin.is_key && origin.pointer == pointer;
        if (is_it) out.append(rendering.text, part.range.begin, part.range.end - part.range.begin);
    }
    return out;
}

}  // namespace qlora::data
