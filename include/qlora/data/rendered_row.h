#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "qlora/tokenizer/text_encoding.h"

namespace qlora::data {

/// The bytes of one answer in a rendered text: what the model is to write, its end token included.
struct AnswerText {
    std::size_t begin = 0;
    std::size_t end = 0;
    std::size_t message = 0;  ///< its place among the turns; a template may mark several pieces of one
    std::size_t after = 0;    ///< end of what the row says before it; 0 where it says nothing
    bool supervised = false;
    bool switched_off = false;  ///< the row says that this turn is never trained
    bool ends = false;          ///< an end token is its last, or is put behind it
};

/// A row as one text, which the tokenizer reads whole.
struct RenderedRow {
    std::string text;  ///< UTF-8
    /// What the row says: no byte of it becomes part of a control token. Ascending.
    std::vector<tokenizer::ByteRange> plain_ranges;
    std::vector<AnswerText> answers;  ///< ascending
    /// Answers are what {% generation %} blocks of the template wrote: a token is an answer's where it
    /// overlaps the answer, as transformers counts. Otherwise no token crosses an answer's edge.
    bool is_marked = false;
    bool adds_start = false;     ///< what the tokenizer puts before a text (a BOS) comes first
    bool adds_end = false;       ///< EOS comes last, unless the text ends in one
    bool reads_control = false;  ///< control tokens are recognised in answers too
    bool trains_all = false;     ///< every token is supervised but those of answers that are switched off
    /// Of turns that are not trained: what the template leaves out, as DatasetStatistics::passed_over names
    /// it.
    std::vector<std::string> left_out;
};

/// Tokens [begin, end) of one answer, its end token included.
struct AnswerSpan {
    std::size_t begin = 0;
    std::size_t end = 0;
    std::size_t message = 0;
    /// From here to `begin` the template opens the answer: what it writes behind all that the row says
    /// before, and behind the end token of the turn before with the white space there.
    std::size_t opening = 0;
    bool prompted = false;  ///< the row says something before it
    bool supervised = false;
    bool ends = true;    ///< its last token is an end token
    bool plain = false;  ///< control tokens may stand in it: they are recognised, or the template writes some
};

struct EncodedRow {
    std::vector<tokenizer::TokenId> ids;
    std::vector<std::uint8_t> supervised;
    std::vector<AnswerSpan> answers;
    std::size_t cut_edges = 0;  ///< edges of answers that a token would have crossed

    /// Where the last answer begins; there is one.
    std::size_t last_answer_begin() const;
};

}  // namespace qlora::data
