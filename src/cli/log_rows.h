#pragma once

#include <string>

#include "qlora/data/sft_dataset.h"

namespace qlora::cli {

/// Logs what became of the rows of `title`, and which of their fields nothing is made of.
void log_rows(const std::string& title, const data::DatasetStatistics& statistics);

}  // namespace qlora::cli
