#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "qlora/data_report/finding.h"

namespace qlora::data_report {

/// The script of a letter by its Unicode block: "Latin", "Hangul", ...; empty for one of no block in the
/// table.
std::string_view script_of(char32_t code);
bool is_written_without_blanks(char32_t code);

/// The script that most letters of a text are in. Han with at least a tenth of kana is "Japanese". Empty
/// where no script has more than half of the letters, or there are fewer than 10.
std::string_view main_script(std::string_view text);

/// Rows by the main scripts of prompt and answer, where both have one.
using ScriptPairs = std::map<std::pair<std::string, std::string>, std::int64_t>;

/// Trained answers in another script than the turn before them.
ScriptPairs find_other_scripts(std::span<const Row> rows, Findings& findings);

}  // namespace qlora::data_report
