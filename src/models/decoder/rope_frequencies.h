#pragma once

#include <ATen/core/Tensor.h>

#include "qlora/models/decoder_spec.h"

namespace qlora::models {

/// fp32 [dims / 2], dims being how many dimensions of a head turn; transformers' modeling_rope_utils,
/// operation by operation, so that the bits agree. `tokens` of the sequence matter to longrope alone.
at::Tensor inverse_frequencies(const RopeConfig& rope, std::int64_t dims, std::int64_t tokens = 1);

}  // namespace qlora::models
