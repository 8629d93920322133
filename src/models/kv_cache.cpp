#include "qlora/models/kv_cache.h"

#include <ATen/ops/empty.h>
#include <algorithm>

namespace qlora::models {

KvCache::KeysValues KvCache::append(std::int64_t layer, const at::Tensor& k, const at::Tensor& v) {
    const std::int64_t needed = length_ + k.size(0);
    const auto grown = [&](at::Tensor& buffer, const at::Tensor& rows) {
        if (!buffer.defined() || buffer.size(0) < needed) {
            const std::int64_t capacity = std::max<std::int64_t>(needed + 32, length_ * 2);
            at::Tensor larger = at::empty({capacity, rows.size(1), rows.size(2)}, rows.options());
            if (length_ > 0) larger.narrow(0, 0, length_).copy_(buffer.narrow(0, 0, length_));
            buffer = larger;
        }
        buffer.narrow(0, length_, rows.size(0)).copy_(rows);
        return buffer.narrow(0, 0, needed);
    };
    const std::size_t index = static_cast<std::size_t>(layer);
    return {.keys = grown(keys_[index], k), .values = grown(values_[index], v)};
}

}  // namespace qlora::models
