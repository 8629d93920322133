#pragma once

#include <string_view>

namespace qlora::data_report {

/// The phrase of a refusal in the first 160 code points of a folded answer, as the table in
/// answer_phrases.cpp spells it, or empty. The table holds phrases of English, Korean, Chinese, Japanese,
/// German, French, Spanish, Portuguese, Italian and Russian, each long enough that it is hardly ever said
/// otherwise ("i can't help with", not "i can't").
std::string_view refusal_in(std::u32string_view folded);

/// The same for what assistants say without being asked ("as an ai language model", "i hope this helps"),
/// anywhere in the answer.
std::string_view boilerplate_in(std::u32string_view folded);

}  // namespace qlora::data_report
