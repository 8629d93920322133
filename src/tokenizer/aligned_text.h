#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/tokenizer/text_encoding.h"
#include "text_marks.h"

namespace qlora::tokenizer {

/// A part of the input that steps rewrite, with the place in the input that each of its bytes comes from. The
/// places are only kept for marks that track them.
class AlignedText {
  public:
    /// `part` stands at byte `offset` of the input. Keeps a reference to the marks.
    AlignedText(std::string_view part, std::size_t offset, const TextMarks& marks);

    const std::string& text() const { return text_; }
    const TextMarks& marks() const { return *marks_; }
    bool tracks() const { return marks_->tracks(); }
    /// The input's bytes that bytes [begin, end) stand for; an empty range stands before the byte at `begin`.
    ByteRange source(std::size_t begin, std::size_t end) const;
    AlignedText slice(std::size_t begin, std::size_t end) const;

    /// The places strictly inside bytes [begin, end) at which the input is to be cut, ascending.
    std::vector<std::size_t> cuts(std::size_t begin, std::size_t end) const;

    /// Nothing yet, to be filled with what this text becomes.
    AlignedText rewritten() const;
    /// Appends bytes [begin, end) of `from` as they are.
    void keep(const AlignedText& from, std::size_t begin, std::size_t end);
    /// Appends `content`, every byte of which stands for bytes [begin, end) of `from`.
    void put(std::string_view content, const AlignedText& from, std::size_t begin, std::size_t end);

    /// Appends what `letters` has for each of the bytes [begin, end) of `from`.
    void spell(const AlignedText& from, std::size_t begin, std::size_t end,
               const std::array<std::string, 256>& letters);

  private:
    struct Source {
        std::uint32_t begin;
        std::uint32_t end;
    };

    std::string text_;
    const TextMarks* marks_;
    std::size_t offset_;           // of the first byte, while every byte stands for itself
    bool is_exact_ = true;         // every byte stands for itself: no sources are kept
    std::vector<Source> sources_;  // one a byte
};

}  // namespace qlora::tokenizer
