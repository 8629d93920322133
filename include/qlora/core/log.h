#pragma once

#include <spdlog/spdlog.h>

namespace qlora {

/// Logs go to stderr; stdout carries results only.
enum class Verbosity { kQuiet, kNormal, kVerbose };
void set_up_log(Verbosity verbosity);

}  // namespace qlora
