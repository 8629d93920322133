#pragma once

#include <string>
#include <vector>

#include "qlora/data/data_config.h"

namespace qlora::data {

/// The columns of a table whose text may be a list of messages too: those of `prompt`, `completion`, ...,
/// under their own names or the ones that `data.columns` gives them.
std::vector<std::string> message_columns(const ColumnNames& columns);

}  // namespace qlora::data
