#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "qlora/data/batch.h"
#include "qlora/models/causal_lm.h"

namespace qlora::eval {

/// int64 [n] copy of a list.
at::Tensor index_tensor(const std::vector<std::int64_t>& values);

/// A data batch as the model takes it.
models::TokenBatch token_batch(const data::Batch& batch);

}  // namespace qlora::eval
