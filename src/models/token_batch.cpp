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

Expanded with_virtual_tokens(const TokenBatch& batch, std::span<const std::int64_t> before,
                             std::int64_t first_id, std::int64_t first_position) {
    std::vector<std::int64_t> ids, positions, places, offsets{0};
    for (std::size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
        for (std::int64_t i = 0; i < before[s]; ++i) {
            ids.push_back(first_id + i);
            positions.push_back(first_position + i);
        }
        for (std::int64_t t = batch.offsets[s]; t < batch.offsets[s + 1]; ++t) {
            places.push_back(static_cast<std::int64_t>(ids.size()));
            ids.push_back(0);
            positions.push_back(0);
        }
        offsets.push_back(static_cast<std::int64_t>(ids.size()));
    }
    Expanded out{.batch = upload(
                     {.ids = ids, .positions = positions, .offsets = offsets, .rows = places, .targets = {}},
                     batch.ids.device()),
                 .places = {}};
    out.places = out.batch.rows;
    out.batch.ids.index_copy_(0, out.places, batch.ids);
    out.batch.positions.index_copy_(0, out.places, batch.positions);
    out.batch.rows = at::Tensor();
    return out;
}

}  // namespace qlora::models
