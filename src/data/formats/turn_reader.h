#pragma once

#include <string>
#include <string_view>

#include "qlora/core/json.h"
#include "qlora/data/message.h"

namespace qlora::data::formats {

/// How faults call a turn's role and content where the turn has neither.
struct TurnNames {
    std::string_view role;
    std::string_view content;
};
inline constexpr TurnNames kRoleContent{"role", "content"};
inline constexpr TurnNames kFromValue{"from", "value"};

/// One turn of a list: an object with `role` or `from`, and `content` or `value`, in the words of the chat
/// APIs or of ShareGPT. A function call's turn becomes an answer with `tool_calls`. DataError that names
/// `where`.
Message read_turn(const Json& turn, const std::string& where, const TurnNames& names);

}  // namespace qlora::data::formats
