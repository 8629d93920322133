#pragma once

#include <ATen/core/Tensor.h>

#include "qlora/kernels/kernels.h"

namespace qlora::ops {

using kernels::kFewRows;

/// A frozen matrix [out, in] that a product can ask for in fp32, however it is stored (dense, packed 4-bit).
class FrozenWeight {
  public:
    virtual ~FrozenWeight() = default;
    virtual std::int64_t out_features() const = 0;
    virtual std::int64_t in_features() const = 0;
    /// Rows [first, first + count) in fp32; a temporary of the call unless the implementation keeps a cache.
    /// In a bf16 run the values are those rounded to bf16, as bitsandbytes dequantizes to the compute dtype.
    virtual at::Tensor dense_rows(std::int64_t first, std::int64_t count) const = 0;
    /// Whether it is held in `dtype`, so that `rows_as` copies nothing.
    virtual bool stores(at::ScalarType /*dtype*/) const { return false; }
    /// Rows [first, first + count) in `dtype`, for products of a device.
    virtual at::Tensor rows_as(std::int64_t first, std::int64_t count, at::ScalarType dtype) const {
        return dense_rows(first, count).to(dtype);
    }
    /// x [n, in] W^T in x's dtype for at most kFewRows rows, straight from how it is stored; undefined where
    /// nothing is gained by that.
    virtual at::Tensor multiply_few(const at::Tensor& /*x*/) const { return {}; }
    /// All of it.
    at::Tensor dense() const { return dense_rows(0, out_features()); }
};

}  // namespace qlora::ops
