#pragma once

#include <cstdint>

namespace qlora::nn {

/// What a forward pass needs to know beside its input.
struct ForwardContext {
    bool training = false;                ///< dropout on
    bool gradient_checkpointing = false;  ///< whole decoder layers
    std::uint64_t seed = 0;               ///< of the run, for dropout
    std::uint32_t micro_step = 0;         ///< micro-batch since the start of the run, for dropout
};

}  // namespace qlora::nn
