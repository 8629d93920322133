#pragma once

#include <memory>

#include "qlora/train/callback.h"

namespace qlora::cli {

/// Shows a run on stderr: a bar with ETA on a terminal, one plain line for each log line otherwise.
std::unique_ptr<train::Callback> make_progress(bool quiet);

}  // namespace qlora::cli
