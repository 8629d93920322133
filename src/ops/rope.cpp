#include "qlora/ops/rope.h"

#include <ATen/TensorOperators.h>

#include "qlora/ops/device.h"
#include "rope_backends.h"

namespace qlora::ops {

RopeTable rope_table(const at::Tensor& positions, const at::Tensor& inverse_frequency, at::ScalarType dtype,
                     double factor) {
    const at::Tensor angles = positions.to(at::kFloat).unsqueeze(1) * inverse_frequency;
    if (factor == 1.0) return {.cos = angles.cos().to(dtype), .sin = angles.sin().to(dtype)};
    return {.cos = (angles.cos() * factor).to(dtype), .sin = (angles.sin() * factor).to(dtype)};
}

void rope_(at::Tensor& x, const TurnedHeads& heads, const RopeTable& table, RopeDirection direction) {
    const std::int64_t of_group = heads.heads * heads.head_dim;
    TORCH_CHECK(x.dim() == 2 && x.stride(1) == 1 &&
                    x.size(1) >= (heads.groups > 1 ? heads.groups * heads.group_stride : of_group),
                "rope_: rows too short");
    TORCH_CHECK(table.dims() <= heads.head_dim, "rope_: angles for ", table.dims(), " dimensions of ",
                heads.head_dim);
    if (device_kernels(x) != nullptr) return on_device::rope_(x, heads, table, direction);
    if (x.scalar_type() == at::kFloat) return in_fp32::rope_(x, heads, table, direction);
    in_bf16::rope_(x, heads, table, direction);
}

}  // namespace qlora::ops
