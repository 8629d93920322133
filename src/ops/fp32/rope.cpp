#include <ATen/Parallel.h>

#include "../rope_backends.h"
#include "qlora/kernels/elementwise.h"

namespace qlora::ops::in_fp32 {

void rope_(at::Tensor& x, const TurnedHeads& heads, const RopeTable& table, RopeDirection direction) {
    const std::int64_t stride = x.stride(0), half = table.dims() / 2;
    const int sign = direction == RopeDirection::kForward ? 1 : -1;
    float* data = x.mutable_data_ptr<float>();
    const float* cos = table.cos.const_data_ptr<float>();
    const float* sin = table.sin.const_data_ptr<float>();
    at::parallel_for(0, x.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
        const kernels::cpu::RopeRows rows{.tokens = end - begin,
                                          .heads = heads.heads,
                                          .head_dim = heads.head_dim,
                                          .dims = 2 * half,
                                          .row_stride = stride,
                                          .groups = heads.groups,
                                          .group_stride = heads.group_stride,
                                          .pairs = table.pairs};
        kernels::cpu::rope(data + begin * stride, cos + begin * half, sin + begin * half, rows, sign);
    });
}

}  // namespace qlora::ops::in_fp32
