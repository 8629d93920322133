#pragma once

#include <ATen/core/Tensor.h>

#include "qlora/models/decoder_spec.h"

namespace qlora::models {

/// fp32 [dims / 2], dims being how many dimensions of a head turn; transformers' modeling_rope_utils,
/// operation by operation, so that the bits agree.
at::Tensor inverse_frequencies(const RopeConfig& rope, std::int64_t dims);

}  // namespace qlora::models
