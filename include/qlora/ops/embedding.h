#pragma once

#include <ATen/core/Tensor.h>

namespace qlora::ops {

/// What stands in an input beside the rows of an embedding table.
struct FurtherRows {
    at::Tensor rows;  ///< fp32 [F, d]; ids V .. V + F - 1; undefined: none
    double scale = 1.0;
};

/// scale * rows `ids` [T] of `table` [V, d] in `dtype`: the rows are rounded to it, and their product again.
/// `further` goes on where the table ends, with a scale of its own. A table that requires a gradient
/// (modules_to_save) gets a dense one, in which row `padding_index` (-1: none) stays zero, as in
/// torch.nn.Embedding. That of further rows is summed in fp32 in the order of the places, on any device.
at::Tensor embedding(const at::Tensor& table, const at::Tensor& ids, at::ScalarType dtype,
                     std::int64_t padding_index, double scale = 1.0, const FurtherRows& further = {});

}  // namespace qlora::ops
