#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "budget.h"

namespace qlora::jinja {

/// What is known of a character: its origin (an index into the rendering's origins) and the {% generation %}
/// block that wrote it (counted from 1; 0 for none).
struct Mark {
    std::uint32_t origin = 0;
    std::uint32_t generation = 0;

    bool operator==(const Mark&) const = default;
};

/// Characters up to the byte `end` that have the same mark.
struct Run {
    std::size_t end;
    Mark mark;
};

/// What values point to.
struct Object {
    /// Throws RenderError when the value would be nested too deeply.
    explicit Object(Budget* budget, std::size_t bytes = 0, int depth_ = 1);
    Object(const Object&) = delete;
    Object& operator=(const Object&) = delete;
    virtual ~Object() = default;

    Charge charge;
    int depth;  // levels of values inside, itself included
};

/// A string whose characters know where they come from. Never changes once it is made.
struct Text : Object {
    Text(Budget* budget, std::string bytes_, std::vector<Run> runs_, bool is_markup_);

    std::string bytes;      // UTF-8
    std::vector<Run> runs;  // cover the bytes; none when every mark is the default one
    bool is_ascii;
    bool is_markup;  // jinja2's Markup: text that is joined to it is escaped

    std::string_view view() const { return bytes; }
    /// Code points.
    std::size_t length() const;
    /// Byte offset of the code point `index`, at most the length.
    std::size_t offset_of(std::size_t index) const;
    /// The mark of the character at a byte offset; the default one where the text ends.
    Mark mark_at(std::size_t offset) const;
};
using TextPtr = std::shared_ptr<const Text>;

/// Puts a text together; what it holds is counted while it grows.
class TextBuilder {
  public:
    explicit TextBuilder(Budget& budget) : budget_(budget), charge_(&budget) {}

    void append(std::string_view bytes, Mark mark = {});
    void append(const Text& text) { append(text, 0, text.bytes.size()); }
    /// The bytes [begin, end) of a text with their marks.
    void append(const Text& text, std::size_t begin, std::size_t end);
    /// A character that stands for the one at `offset` of `source`: its upper case or its escape.
    void append_for(const Text& source, std::size_t offset, std::string_view bytes) {
        append(bytes, source.mark_at(offset));
    }
    /// Characters that belong to no generation block belong to this one from here on.
    void mark_generation(std::uint32_t generation);

    std::size_t size() const { return bytes_.size(); }
    TextPtr finish(bool is_markup = false);
    const std::string& bytes() const { return bytes_; }
    const std::vector<Run>& runs() const { return runs_; }

  private:
    void grow(std::size_t more);
    void close_run(Mark mark);

    Budget& budget_;
    Charge charge_;
    std::string bytes_;
    std::vector<Run> runs_;
};

/// The bytes [begin, end) with their marks; Markup stays Markup.
TextPtr cut(Budget& budget, const Text& text, std::size_t begin, std::size_t end);

}  // namespace qlora::jinja
