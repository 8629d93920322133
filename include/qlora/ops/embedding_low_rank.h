#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace qlora::ops {

/// scaling * A[:, id]^T B^T is added to row `id` of an embedding table [V, d]; A [r, V] and B [d, r] fp32
/// (peft's lora.Embedding, which has no dropout).
struct EmbeddingLowRank {
    at::Tensor a, b;
    double scaling = 1.0;
};

/// `rows` [T, d], the table's rows `ids` [T] times `scale`, with what `update` adds to them, times `scale`
/// too: in fp32, rounded to the dtype of `rows` once. Column `padding_index` (-1: none) of A gets no
/// gradient, as in torch.nn.Embedding. Sums over places are in their order, on any device.
at::Tensor add_embedding_low_rank(const at::Tensor& rows, const at::Tensor& ids,
                                  const EmbeddingLowRank& update, std::int64_t padding_index,
                                  double scale = 1.0);

}  // namespace qlora::ops
