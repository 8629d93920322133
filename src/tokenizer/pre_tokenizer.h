#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "aligned_text.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"

namespace qlora::tokenizer {

/// A text cut into pieces that the model encodes one by one.
struct Pieces {
    struct Piece {
        std::size_t begin;  // bytes in `text`; never empty
        std::size_t end;
        bool at_start;  // begins where the whole input begins
    };
    AlignedText text;
    std::vector<Piece> pieces;

    std::string_view view(const Piece& piece) const {
        return std::string_view(text.text()).substr(piece.begin, piece.end - piece.begin);
    }
};

class PreTokenizer {
  public:
    virtual ~PreTokenizer() = default;
    virtual void apply(Pieces& pieces) const = 0;
    /// Whether `Piece::at_start` makes a difference.
    virtual bool needs_start() const { return false; }
};

/// Null when the file has none, or when it is faulty (the faults are in the list).
std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Json& json, const std::string& path,
                                                 FaultList& faults);

}  // namespace qlora::tokenizer
