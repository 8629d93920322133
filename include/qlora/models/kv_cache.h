#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace qlora::models {

/// Keys and values of one sequence, for generation. One growing buffer a layer, [capacity, kv_heads,
/// head_dim].
class KvCache {
  public:
    explicit KvCache(std::size_t layers) : keys_(layers), values_(layers) {}

    /// Positions filled by completed passes; the next token's position.
    std::int64_t length() const { return length_; }
    void advance(std::int64_t tokens) { length_ += tokens; }

    struct KeysValues {
        at::Tensor keys, values;
    };
    /// Stores the new rows k, v [n, kv_heads, head_dim] of a layer behind the `length()` old ones; returns
    /// all of them.
    KeysValues append(std::int64_t layer, const at::Tensor& k, const at::Tensor& v);

  private:
    std::vector<at::Tensor> keys_;
    std::vector<at::Tensor> values_;
    std::int64_t length_ = 0;
};

}  // namespace qlora::models
