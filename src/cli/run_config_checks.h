#pragma once

#include "qlora/cli/run_config.h"

namespace qlora::cli {

/// Fills in the defaults that depend on other settings. `state.given` tells which keys stood in the file.
void resolve_defaults(RunConfig& config, ReadState& state);

/// Faults of settings that contradict each other or have no effect together.
void check_combinations(const RunConfig& config, FaultList& faults);

inline constexpr const char* kFloat16NeedsGpu =
    "float16 needs the GPU's loss scaler; use float32 or bfloat16 on the CPU";

}  // namespace qlora::cli
