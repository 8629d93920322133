#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "qlora/cli/run_config.h"
#include "qlora/data/sft_dataset.h"

namespace qlora::cli {

/// What a run's numbers depend on. The configuration's compute dtype is resolved.
struct RunFacts {
    const RunConfig& config;
    const std::map<std::string, std::string>& metadata;  ///< of the adapter
    const data::Dataset& train;
    const data::Dataset* eval = nullptr;  ///< null: no held-out rows
    at::Device device = at::kCPU;
    std::int64_t threads = 1;
};

/// What must be the same when a run is resumed, as its checkpoints keep it. Files count by their content, not
/// their place; the threads only where they change the order of sums (null elsewhere).
Json run_identity(const RunFacts& facts);

/// ConfigError with every difference between the identity `saved` in the checkpoint at `place` and that of
/// this run which would change its numbers; other held-out rows are only named. What an earlier version has
/// not saved is not compared.
void require_same_run(const Json& saved, const Json& identity, const RunConfig& config,
                      const std::filesystem::path& place);

}  // namespace qlora::cli
