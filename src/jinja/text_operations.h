#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "runtime.h"

namespace qlora::jinja {

/// Operations of Python's str. Each character of a result keeps the mark of the one it comes from.

/// Offset of the first `wanted` at or after `from`, or npos; takes time in proportion to the lengths.
std::size_t find_text(Budget& budget, std::string_view text, std::string_view wanted, std::size_t from = 0);

enum class Side { kLeft, kRight, kBoth };
/// strip, lstrip, rstrip: of white space, or of any of `characters`.
TextPtr strip(Runtime& runtime, const Text& text, Side side, const Text* characters = nullptr);

/// split and rsplit: by runs of white space where `separator` is null. At most `most` cuts, or any number
/// when negative.
std::vector<Value> split(Runtime& runtime, const Text& text, const Text* separator, std::int64_t most);
std::vector<Value> split_from_right(Runtime& runtime, const Text& text, const Text* separator,
                                    std::int64_t most);
/// splitlines, without the line ends.
std::vector<Value> split_lines(Runtime& runtime, const Text& text);

/// replace; all where `most` is negative. The result is Markup when asked for.
TextPtr replace(Runtime& runtime, const Text& text, const Text& old, const Text& with, std::int64_t most,
                bool is_markup = false);

TextPtr concatenate(Runtime& runtime, const Text& a, const Text& b, bool is_markup = false);
TextPtr repeat(Runtime& runtime, const Text& text, std::int64_t times);
/// text[start:stop:step] in code points, as Python clips them.
TextPtr slice(Runtime& runtime, const Text& text, std::optional<std::int64_t> start,
              std::optional<std::int64_t> stop, std::int64_t step);
/// The character at an index that is valid.
TextPtr character(Runtime& runtime, const Text& text, std::int64_t index);

/// Joins the texts of items; `separator` stands between them.
TextPtr join(Runtime& runtime, const Text& separator, const std::vector<Value>& items,
             bool is_markup = false);
/// Jinja's indent filter.
TextPtr indent(Runtime& runtime, const Text& text, const Text& indention, bool first, bool blank);

/// The text with & < > ' " as references of HTML; Markup stays as it is.
TextPtr escape_markup(Runtime& runtime, const Text& text);

/// Python's clipping of a slice to a sequence of `length` items: the first index, and how many are taken.
struct SliceRange {
    std::int64_t start;
    std::int64_t count;
};
SliceRange clip_slice(std::int64_t length, std::optional<std::int64_t> start,
                      std::optional<std::int64_t> stop, std::int64_t step);

}  // namespace qlora::jinja
