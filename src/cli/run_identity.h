#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "qlora/cli/run_config.h"
#include "qlora/data/sft_dataset.h"

namespace qlora::cli {

/// What must be the same when a run is resumed, as its checkpoints keep it. `metadata`: of the adapter.
Json run_identity(const RunConfig& config, const std::map<std::string, std::string>& metadata,
                  const data::Dataset& train, const data::Dataset* eval, std::int64_t threads);

/// ConfigError with every difference between the identity `saved` in the checkpoint at `place` and that of
/// this run which would change its numbers; other held-out rows are only named.
void require_same_run(const Json& saved, const Json& identity, const RunConfig& config,
                      const std::filesystem::path& place);

}  // namespace qlora::cli
