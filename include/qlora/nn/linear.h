#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "qlora/nn/linear_adapter.h"
#include "qlora/nn/weight.h"

namespace qlora::nn {

/// A projection of the model: a slot with a weight (dense or packed), an optional bias and an optional
/// adapter. Quantizing replaces the first, injecting sets the last. `path` is the checkpoint's module name.
class Linear {
  public:
    Linear(std::string path, std::int64_t in_features, std::int64_t out_features, bool has_bias);

    const std::string& path() const { return path_; }
    std::int64_t in_features() const { return in_features_; }
    std::int64_t out_features() const { return out_features_; }
    bool has_bias() const { return has_bias_; }

    Weight& weight() { return weight_; }
    const Weight& weight() const { return weight_; }
    void set_weight(Weight weight) { weight_ = std::move(weight); }
    const at::Tensor& bias() const { return bias_; }
    void set_bias(at::Tensor bias) { bias_ = std::move(bias); }

    LinearAdapter* adapter() const { return adapter_.get(); }
    /// The adapter, unless the whole linear is trained in its place.
    const LinearAdapter* used_adapter() const { return trains_whole_module() ? nullptr : adapter_.get(); }
    void set_adapter(std::unique_ptr<LinearAdapter> adapter) { adapter_ = std::move(adapter); }

    /// Trains the whole module (modules_to_save): an fp32 copy of the weight, and of the bias if there is
    /// one.
    void train_whole_module();
    bool trains_whole_module() const { return trained_weight_.defined(); }
    const at::Tensor& trained_weight() const { return trained_weight_; }
    /// Makes the bias an fp32 parameter (LoraConfig `bias`).
    void train_bias();
    /// Moves weight, bias and adapter; parameters stay the same tensors.
    void to(at::Device device);

  private:
    std::string path_;
    std::int64_t in_features_;
    std::int64_t out_features_;
    bool has_bias_;
    Weight weight_;
    at::Tensor bias_;
    at::Tensor trained_weight_;
    std::unique_ptr<LinearAdapter> adapter_;
};

}  // namespace qlora::nn
