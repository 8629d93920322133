#pragma once

#include <ATen/core/Tensor.h>

namespace qlora::ops {

/// A frozen matrix [out, in] that a product can ask for in fp32, however it is stored (dense, packed 4-bit).
class FrozenWeight {
  public:
    virtual ~FrozenWeight() = default;
    virtual std::int64_t out_features() const = 0;
    virtual std::int64_t in_features() const = 0;
    /// fp32 [out, in]; a temporary of the call unless the implementation keeps a cache. In a bf16 run the
    /// values are those rounded to bf16, as bitsandbytes dequantizes to the compute dtype.
    virtual at::Tensor dense() const = 0;
};

}  // namespace qlora::ops
