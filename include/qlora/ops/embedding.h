#pragma once

#include <ATen/core/Tensor.h>

namespace qlora::ops {

/// scale * rows `ids` [T] of `table` [V, d] in `dtype`: the rows are rounded to it, and their product again.
/// A table that requires a gradient (modules_to_save) gets a dense one, in which row `padding_index` (-1:
/// none) stays zero, as in torch.nn.Embedding.
at::Tensor embedding(const at::Tensor& table, const at::Tensor& ids, at::ScalarType dtype,
                     std::int64_t padding_index, double scale = 1.0);

}  // namespace qlora::ops
