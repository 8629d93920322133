#pragma once

#include <cstdint>
#include <string>

#include "qlora/data/sft_dataset.h"
#include "qlora/tokenizer/tokenizer.h"

namespace qlora::data {

/// The rows token by token, each token quoted with the blanks that are part of it and control tokens bare, in
/// runs that say whether they are trained on.
std::string preview_rows(const Dataset& dataset, const tokenizer::Tokenizer& tokenizer, std::int64_t rows);

/// The numbers of the examples' rows in lines; of more than `most` only the first, and how many there are
/// more.
std::string list_rows(const std::vector<Example>& examples, std::int64_t most);

/// How the prompts at inference differ from those of training; empty where they do not.
std::string describe_prompts(const PromptReport& report);

/// "read 100 = kept 97 + dropped 2 + rejected 1", for the log; with " + held out N" where rows are.
std::string summary_line(const DatasetStatistics& statistics);

/// The fields that nothing is made of, each with the number of rows that have it; empty without any.
std::string passed_over_line(const DatasetStatistics& statistics);

/// The summary, token counts, a histogram of the lengths, what was dropped and why, duplicates and conflicts.
std::string describe(const DatasetStatistics& statistics);

}  // namespace qlora::data
