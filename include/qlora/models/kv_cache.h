#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "qlora/ops/attention.h"

namespace qlora::models {

/// Keys and values of one sequence, for generation. Two growing buffers a layer, [kv_heads, capacity,
/// head_dim]: what a head reads lies together. What lies before the window of a layer that has one is dropped
/// in time.
class KvCache {
  public:
    explicit KvCache(std::size_t layers) : layers_(layers) {}

    /// Positions filled by completed passes, virtual tokens among them.
    std::int64_t length() const { return length_; }
    /// At the end of a pass: what it appended is filled.
    void advance(std::int64_t tokens) { length_ += tokens; }
    /// Forgets all positions.
    void clear() { *this = KvCache(layers_.size()); }
    /// Of all layers, with the room to grow.
    std::int64_t bytes() const;

    /// Stores the new rows k, v [n, kv_heads, head_dim] of a layer behind the old ones; returns all that are
    /// kept: all `length()` + n, or with a window (0: none) at least those that the new rows see.
    ops::KeysValues append(std::int64_t layer, const at::Tensor& k, const at::Tensor& v, std::int64_t window);
    /// What completed passes left of a layer, without a window all `length()` rows [length, kv_heads,
    /// head_dim].
    ops::KeysValues held(std::int64_t layer) const;

  private:
    struct Layer {
        at::Tensor keys, values;
        std::int64_t dropped = 0;  ///< positions before the first row
    };

    std::vector<Layer> layers_;
    std::int64_t length_ = 0;
};

}  // namespace qlora::models
