#include <ATen/TensorOperators.h>

#include "../rope_backends.h"

namespace qlora::ops::in_bf16 {

void rope_(at::Tensor& x, const TurnedHeads& heads, const RopeTable& table, RopeDirection direction) {
    const std::int64_t dims = table.dims(), half = dims / 2;
    const bool forward = direction == RopeDirection::kForward;
    const at::Tensor all = x.as_strided({x.size(0), heads.groups, heads.heads, heads.head_dim},
                                        {x.stride(0), heads.group_stride, heads.head_dim, 1});
    at::Tensor first = table.pairs ? all.slice(3, 0, dims, 2) : all.narrow(3, 0, half);
    at::Tensor second = table.pairs ? all.slice(3, 1, dims, 2) : all.narrow(3, half, half);
    const at::Tensor c = table.cos.unsqueeze(1).unsqueeze(1), s = table.sin.unsqueeze(1).unsqueeze(1);
    const at::Tensor turned = forward ? first * c - second * s : first * c + second * s;
    second.copy_(forward ? second * c + first * s : second * c - first * s);
    first.copy_(turned);
}

}  // namespace qlora::ops::in_bf16
