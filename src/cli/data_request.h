#pragma once

#include <string>
#include <vector>

#include "flags.h"
#include "qlora/cli/run_config.h"

namespace qlora::cli {

/// The command line of qlora-data; what was not given is empty.
struct DataFlags {
    TextFlag config, model, eval, output, html;
    std::vector<std::string> data, overrides;
    bool json = false;
};

/// The configuration whose rows are looked at: that of the file, with what the command line says instead, or
/// of the command line alone, of which then `model.path`, `data` and `training.seed` count. Throws
/// ConfigError with all faults of either.
RunConfig data_request(const DataFlags& flags);

}  // namespace qlora::cli
