#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "flags.h"
#include "model_request.h"
#include "qlora/cli/run_config.h"

namespace qlora::cli {

/// The command line of qlora-data; what was not given is empty.
struct DataFlags {
    TextFlag config, model, eval, output, html, adapter, quantization, device;
    std::vector<std::string> data, overrides;
    std::optional<std::int64_t> score_rows, tokens_per_batch;
    bool json = false;
    bool score = false;
};

struct DataRequest {
    /// The rows that are looked at: those of the file, with what the command line says instead, or of the
    /// command line alone, of which then `model.path`, `data` and `training.seed` count.
    RunConfig config;
    /// With --score: the model that scores, the adapter being `model.adapter`. Its settings are `config`.
    std::optional<ModelRequest> scoring;
};

/// Throws ConfigError with all faults of the command line, or of the file.
DataRequest data_request(const DataFlags& flags);

}  // namespace qlora::cli
