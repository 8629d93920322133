#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "qlora/nn/linear_adapter.h"

namespace qlora::adapters {

/// A trained factor on each output of a linear, bias and all, or, of a feedforward module, on each input
/// (IA3, Liu et al. 2022; peft's ia3.Linear).
class Ia3Layer final : public nn::LinearAdapter {
  public:
    /// Its tensor's name in PEFT's files.
    static constexpr const char* kVector = "ia3_l";

    /// All factors are 1.
    Ia3Layer(std::int64_t in_features, std::int64_t out_features, bool is_feedforward);
    /// Other starts (init_ia3_weights false): standard normal, drawn from (seed, site).
    void draw(std::uint64_t seed, std::uint32_t site);

    ops::LinearUpdate update(const nn::ForwardContext& context) const override;
    /// It adds nothing to a weight.
    bool folds() const override { return true; }
    void add_delta(at::Tensor& /*rows*/, std::int64_t /*first*/) const override {}
    std::vector<at::Tensor> matrices() const override { return {}; }
    std::vector<std::pair<std::string, at::Tensor>> parameters() const override {
        return {{kVector, vector_}};
    }

    const at::Tensor& vector() const { return vector_; }  ///< [out, 1], or [1, in]

  private:
    bool is_feedforward_;
    at::Tensor vector_;
};

}  // namespace qlora::adapters
