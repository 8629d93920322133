#include "answer_text.h"

#include <algorithm>
#include <tuple>

namespace qlora::data {
namespace {

using jinja::Origin;

bool is_special_token(const std::string& pointer, const std::vector<std::string>& names) {
    return pointer.starts_with('/') &&
           std::find(names.begin(), names.end(), pointer.substr(1)) != names.end();
}

bool is_input(const jinja::Rendering& rendering, const jinja::Part& part,
              const std::vector<std::string>& special_names) {
    const Origin& origin = rendering.origin_of(part);
    if (part.range.begin == part.range.end) return false;
    if (origin.kind == Origin::Kind::kMessage) return origin.pointer != "/role" || origin.is_key;
    return origin.kind == Origin::Kind::kInput && !is_special_token(origin.pointer, special_names);
}

// Where a message stands that wrote nothing: behind the last run of an earlier message.
MessagePlace empty_place(std::size_t message, const std::vector<InputRun>& runs, std::size_t text_size) {
    MessagePlace out{.before = text_size};
    for (const InputRun& run : runs) {
        const bool is_earlier = run.message == InputRun::kNoMessage || run.message < message;
        if (!is_earlier) {
            out.before = run.range.begin;
            break;
        }
        out.after = run.range.end;
    }
    out.own = {out.after, out.after};
    return out;
}

}  // namespace

std::vector<InputRun> input_runs(const jinja::Rendering& rendering,
                                 const std::vector<std::string>& special_names) {
    std::vector<InputRun> runs;
    for (const jinja::Part& part : rendering.parts) {
        if (!is_input(rendering, part, special_names)) continue;
        const Origin& origin = rendering.origin_of(part);
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

std::vector<MessagePlace> message_places(std::size_t count, const std::vector<InputRun>& runs,
                                         std::size_t text_size) {
    struct Runs {
        std::size_t first = 0;
        std::size_t end = 0;  // 0: the message has none
    };
    std::vector<Runs> own(count);
    for (std::size_t i = 0; i < runs.size(); ++i) {
        if (runs[i].message >= count) continue;
        Runs& mine = own[runs[i].message];
        if (mine.end == 0) mine.first = i;
        mine.end = i + 1;
    }
    std::vector<MessagePlace> out(count);
    for (std::size_t message = 0; message < count; ++message) {
        const auto [first, end] = own[message];
        if (end == 0) {
            out[message] = empty_place(message, runs, text_size);
            continue;
        }
        MessagePlace& place = out[message];
        place.own = {runs[first].range.begin, runs[end - 1].range.end};
        place.is_whole = std::all_of(runs.begin() + static_cast<std::ptrdiff_t>(first),
                                     runs.begin() + static_cast<std::ptrdiff_t>(end),
                                     [&](const InputRun& run) { return run.message == message; });
        place.after = first == 0 ? 0 : runs[first - 1].range.end;
        place.before = end == runs.size() ? text_size : runs[end].range.begin;
    }
    return out;
}

std::size_t end_of_input(const jinja::Rendering& rendering, const std::vector<std::string>& special_names) {
    const auto& parts = rendering.parts;
    const auto last = std::find_if(parts.rbegin(), parts.rend(), [&](const jinja::Part& part) {
        return is_input(rendering, part, special_names);
    });
    return last == parts.rend() ? 0 : last->range.end;
}

WrittenValues::WrittenValues(const jinja::Rendering& rendering) : rendering_(rendering) {
    for (const jinja::Part& part : rendering.parts) {
        const Origin& origin = rendering.origin_of(part);
        if (origin.kind != Origin::Kind::kMessage || origin.is_key) continue;
        pieces_.push_back({origin.message, origin.pointer, part.range});
    }
    std::stable_sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) {
        return std::tie(a.message, a.pointer) < std::tie(b.message, b.pointer);
    });
}

std::string WrittenValues::text_of(std::size_t message, std::string_view pointer) const {
    const auto is_before = [&](const Piece& piece) {
        return std::tie(piece.message, piece.pointer) < std::tie(message, pointer);
    };
    std::string out;
    auto piece = std::partition_point(pieces_.begin(), pieces_.end(), is_before);
    for (; piece != pieces_.end() && piece->message == message && piece->pointer == pointer; ++piece)
        out.append(rendering_.text, piece->range.begin, piece->range.end - piece->range.begin);
    return out;
}

}  // namespace qlora::data
