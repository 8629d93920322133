#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/data/rendered_row.h"
#include "qlora/jinja/template.h"

namespace qlora::data {

/// A run of bytes that one message wrote, or another input (tools, say).
struct InputRun {
    static constexpr std::size_t kNoMessage = static_cast<std::size_t>(-1);

    tokenizer::ByteRange range;
    std::size_t message = kNoMessage;
};

/// What of a rendering is input, in order. Not the roles, which are known words, nor the model's special
/// tokens (`special_names`: bos_token, ...): these the template may make control tokens of.
std::vector<InputRun> input_runs(const jinja::Rendering& rendering,
                                 const std::vector<std::string>& special_names);

/// Where a message stands between the inputs beside it.
struct MessagePlace {
    tokenizer::ByteRange own;  ///< from its first to its last byte; empty where it wrote nothing
    std::size_t after = 0;     ///< end of the input before it
    std::size_t before = 0;    ///< begin of the input behind it, or the text's end
    bool is_whole = true;      ///< no other message stands inside it
};
/// Of each of `count` messages.
std::vector<MessagePlace> message_places(std::size_t count, const std::vector<InputRun>& runs,
                                         std::size_t text_size);

/// Where the last run of input ends; 0 where there is none.
std::size_t end_of_input(const jinja::Rendering& rendering, const std::vector<std::string>& special_names);

/// What the values of messages became in a text. Keeps a reference to the rendering.
class WrittenValues {
  public:
    explicit WrittenValues(const jinja::Rendering& rendering);
    /// All that the value at a JSON pointer of a message became, one after the other.
    std::string text_of(std::size_t message, std::string_view pointer) const;

  private:
    struct Piece {
        std::size_t message;
        std::string_view pointer;
        jinja::ByteRange range;
    };

    const jinja::Rendering& rendering_;
    std::vector<Piece> pieces_;  // by message and pointer, and in the order of the text
};

}  // namespace qlora::data
