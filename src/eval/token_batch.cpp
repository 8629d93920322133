#include "qlora/eval/token_batch.h"

namespace qlora::eval {

models::TokenBatch token_batch(const data::Batch& batch, at::Device device) {
    return token_batch(batch, batch.loss_rows, batch.targets, device);
}

models::TokenBatch token_batch(const data::Batch& batch, std::span<const std::int64_t> rows,
                               std::span<const std::int64_t> targets, at::Device device) {
    return models::upload({.ids = batch.ids,
                           .positions = batch.positions,
                           .offsets = batch.offsets,
                           .rows = rows,
                           .targets = targets},
                          device);
}

}  // namespace qlora::eval
