#include "text.h"

#include <algorithm>

#include "qlora/core/code_points.h"

namespace qlora::jinja {
namespace {

// Looks at all bytes even where the first is none, many of them at a time.
bool only_ascii(std::string_view bytes) {
    unsigned all = 0;
    for (const char c : bytes) all |= static_cast<unsigned char>(c);
    return all < 0x80;
}

std::vector<Run>::const_iterator run_at(const std::vector<Run>& runs, std::size_t offset) {
    return std::upper_bound(runs.begin(), runs.end(), offset,
                            [](std::size_t place, const Run& run) { return place < run.end; });
}

std::size_t held_by(std::size_t bytes, std::size_t runs) {
    return sizeof(Text) + bytes + runs * sizeof(Run);
}

}  // namespace

Object::Object(Budget* budget, std::size_t bytes, int depth_) : charge(budget, bytes), depth(depth_) {
    if (budget != nullptr && depth > budget->limits().nesting + 10)
        budget->exceed("values are nested more than " + std::to_string(budget->limits().nesting) + " deep");
}

Text::Text(Budget* budget, std::string bytes_, std::vector<Run> runs_, bool is_markup_)
    : Object(budget, held_by(bytes_.size(), runs_.size())),
      bytes(std::move(bytes_)),
      runs(std::move(runs_)),
      is_ascii(only_ascii(bytes)),
      is_markup(is_markup_) {}

std::size_t Text::length() const {
    if (is_ascii) return bytes.size();
    return static_cast<std::size_t>(
        std::count_if(bytes.begin(), bytes.end(), [](char c) { return !is_utf8_continuation(c); }));
}

std::size_t Text::offset_of(std::size_t index) const {
    if (is_ascii) return std::min(index, bytes.size());
    std::size_t offset = 0;
    for (; index > 0 && offset < bytes.size(); --index) offset += utf8_length(bytes[offset]);
    return offset;
}

Mark Text::mark_at(std::size_t offset) const {
    const auto run = run_at(runs, offset);
    return run == runs.end() ? Mark{} : run->mark;
}

// A text and its copy in a larger place are both there for a moment, so both are counted.
void TextBuilder::grow(std::size_t more) {
    const std::size_t needed = bytes_.size() + more;
    if (needed > bytes_.capacity()) {
        budget_.expect(needed);
        const std::size_t room = std::max(needed, bytes_.capacity() + bytes_.capacity() / 2);
        charge_.change_to(held_by(room, runs_.capacity()));
        bytes_.reserve(room);
    }
    budget_.touch(more);
}

void TextBuilder::close_run(Mark mark) {
    if (!runs_.empty() && runs_.back().mark == mark) {
        runs_.back().end = bytes_.size();
        return;
    }
    if (runs_.size() == runs_.capacity()) {
        charge_.change_to(held_by(bytes_.capacity(), runs_.size() * 2 + 4));
        runs_.reserve(runs_.size() * 2 + 4);
    }
    runs_.push_back({bytes_.size(), mark});
}

void TextBuilder::append(std::string_view added, Mark mark) {
    if (added.empty()) return;
    grow(added.size());
    bytes_.append(added);
    close_run(mark);
}

void TextBuilder::append(const Text& text, std::size_t begin, std::size_t end) {
    if (begin >= end) return;
    if (text.runs.empty()) return append(text.view().substr(begin, end - begin));
    grow(end - begin);
    for (auto run = run_at(text.runs, begin); begin < end; ++run) {
        const std::size_t stop = std::min(run->end, end);
        bytes_.append(text.bytes, begin, stop - begin);
        close_run(run->mark);
        begin = stop;
    }
}

void TextBuilder::mark_generation(std::uint32_t generation) {
    for (Run& run : runs_)
        if (run.mark.generation == 0) run.mark.generation = generation;
}

TextPtr TextBuilder::finish(bool is_markup) {
    budget_.step(2);  // for the place in memory
    if (runs_.size() == 1 && runs_.front().mark == Mark{}) runs_.clear();
    return std::make_shared<const Text>(&budget_, std::move(bytes_), std::move(runs_), is_markup);
}

TextPtr cut(Budget& budget, const Text& text, std::size_t begin, std::size_t end) {
    TextBuilder out(budget);
    out.append(text, begin, end);
    return out.finish(text.is_markup);
}

}  // namespace qlora::jinja
