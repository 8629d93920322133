#include "qlora/models/kv_cache.h"

#include <ATen/ops/empty.h>
#include <algorithm>

namespace qlora::models {
namespace {

/// Positions are dropped by multiples of this: whole blocks of keys of our kernels (48) and of LibTorch's
/// (512), so that no sum gets another order.
constexpr std::int64_t kDroppedAtOnce = 1536;

}  // namespace

std::int64_t KvCache::bytes() const {
    std::int64_t sum = 0;
    for (const Layer& layer : layers_) {
        for (const at::Tensor* buffer : {&layer.keys, &layer.values})
            if (buffer->defined()) sum += static_cast<std::int64_t>(buffer->nbytes());
    }
    return sum;
}

ops::KeysValues KvCache::append(std::int64_t layer, const at::Tensor& k, const at::Tensor& v,
                                std::int64_t window) {
    Layer& held = layers_[static_cast<std::size_t>(layer)];
    // The first new row sees the window - 1 positions before it.
    const std::int64_t unseen = window > 0 ? length_ - (window - 1) - held.dropped : 0;
    const std::int64_t drops = std::max<std::int64_t>(0, unseen) / kDroppedAtOnce * kDroppedAtOnce;
    const std::int64_t kept = length_ - held.dropped - drops, needed = kept + k.size(0);
    const auto grown = [&](at::Tensor& buffer, const at::Tensor& rows) {
        if (!buffer.defined() || drops > 0 || buffer.size(1) < needed) {
            const std::int64_t capacity = std::max<std::int64_t>(needed + 32, kept * 2);
            at::Tensor other = at::empty({rows.size(1), capacity, rows.size(2)}, rows.options());
            if (kept > 0) other.narrow(1, 0, kept).copy_(buffer.narrow(1, drops, kept));
            buffer = other;
        }
        buffer.narrow(1, kept, rows.size(0)).copy_(rows.transpose(0, 1));
        return buffer.narrow(1, 0, needed).transpose(0, 1);
    };
    held.dropped += drops;
    return {.keys = grown(held.keys, k), .values = grown(held.values, v)};
}

ops::KeysValues KvCache::held(std::int64_t layer) const {
    const Layer& of = layers_[static_cast<std::size_t>(layer)];
    const auto rows = [&](const at::Tensor& buffer) {
        return buffer.narrow(1, 0, length_ - of.dropped).transpose(0, 1);
    };
    return {.keys = rows(of.keys), .values = rows(of.values)};
}

}  // namespace qlora::models
