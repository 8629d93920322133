#include "qlora/models/token_batch.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <algorithm>

namespace qlora::models {

TokenBatch upload(const TokenLists& lists, at::Device device) {
    const auto size = [](const auto& list) { return static_cast<std::int64_t>(list.size()); };
    // Two offsets of 32 bits in the place of one id.
    const std::int64_t offset_places = (size(lists.offsets) + 1) / 2;
    const std::int64_t total =
        size(lists.ids) + size(lists.positions) + size(lists.rows) + size(lists.targets) + offset_places;
    const at::Tensor packed =
        at::empty({total}, at::TensorOptions(at::kLong).pinned_memory(device.is_cuda()));
    auto* to = packed.mutable_data_ptr<std::int64_t>();
    for (const auto& list : {lists.ids, lists.positions, lists.rows, lists.targets}) {
        to = std::copy(list.begin(), list.end(), to);
    }
    const at::Tensor offsets = packed.narrow(0, total - offset_places, offset_places).view(at::kInt);
    std::copy(lists.offsets.begin(), lists.offsets.end(), offsets.mutable_data_ptr<std::int32_t>());
    const at::Tensor there = device.is_cpu() ? packed : packed.to(device, /*non_blocking=*/true);
    std::int64_t first = 0;
    const auto next = [&](std::int64_t count) {
        first += count;
        return there.narrow(0, first - count, count);
    };
    TokenBatch batch;
    batch.ids = next(size(lists.ids));
    batch.positions = next(size(lists.positions));
    batch.rows = next(size(lists.rows));
    batch.targets = next(size(lists.targets));
    batch.offsets.assign(lists.offsets.begin(), lists.offsets.end());
    batch.device_offsets = next(offset_places).view(at::kInt).narrow(0, 0, size(lists.offsets));
    return batch;
}

}  // namespace qlora::models
