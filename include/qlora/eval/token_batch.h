#pragma once

#include <cstdint>
#include <span>

#include "qlora/data/batch.h"
#include "qlora/models/token_batch.h"

namespace qlora::eval {

/// A data batch as the model takes it, with the rows that have a loss and their targets.
models::TokenBatch token_batch(const data::Batch& batch, at::Device device);
/// The same with other rows and targets.
models::TokenBatch token_batch(const data::Batch& batch, std::span<const std::int64_t> rows,
                               std::span<const std::int64_t> targets, at::Device device);

}  // namespace qlora::eval
