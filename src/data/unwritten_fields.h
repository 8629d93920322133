#pragma once

#include <string>
#include <vector>

#include "qlora/data/record_format.h"

namespace qlora::data {

/// A built-in template writes roles and contents. What a row says besides (`tools`, `documents`, variables
/// for the template, calls of tools, reasoning) would be left out of what is trained: DataError that names
/// it.
void refuse_unwritten_fields(const Record& record, const std::string& template_name);

/// With data.train_on "all" every token is trained but the answers that a row switches off; DataError for
/// another turn that it switches off.
void refuse_switched_off_questions(const Record& record);

/// The fields of turns that a built-in template makes nothing of, each once, as "turns: NAME".
std::vector<std::string> turn_fields_passed_over(const Record& record);

}  // namespace qlora::data
