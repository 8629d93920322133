#include "../rope_backends.h"
#include "qlora/ops/device.h"

namespace qlora::ops::on_device {

void rope_(at::Tensor& x, const TurnedHeads& heads, const RopeTable& table, RopeDirection direction) {
    device_kernels(x)->rope({.x = x.mutable_data_ptr(),
                             .cos = table.cos.const_data_ptr(),
                             .sin = table.sin.const_data_ptr(),
                             .tokens = x.size(0),
                             .heads = heads.heads,
                             .head_dim = heads.head_dim,
                             .dims = table.dims(),
                             .row_stride = x.stride(0),
                             .direction = direction == RopeDirection::kForward ? 1 : -1,
                             .type = float_type(x.scalar_type()),
                             .angle_type = float_type(table.cos.scalar_type()),
                             .pairs = table.pairs,
                             .groups = heads.groups,
                             .group_stride = heads.group_stride},
                            current_stream(x));
}

}  // namespace qlora::ops::on_device
