#include "qlora/eval/token_batch.h"

namespace qlora::eval {

at::Tensor index_tensor(const std::vector<std::int64_t>& values) {
    return at::tensor(at::ArrayRef<std::int64_t>(values), at::kLong);
}

models::TokenBatch token_batch(const data::Batch& batch) {
    return {
        .ids = index_tensor(batch.ids), .positions = index_tensor(batch.positions), .offsets = batch.offsets};
}

}  // namespace qlora::eval
