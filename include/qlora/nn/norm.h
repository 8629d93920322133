#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <string>
#include <utility>

#include "qlora/nn/move.h"
#include "qlora/ops/norm.h"

namespace qlora::nn {

struct NormSettings {
    double eps = 1e-6;
    kernels::NormKind kind = kernels::NormKind::kRms;
    bool bias = false;
    bool offset = false;  ///< it multiplies with 1 + the stored weight
};

/// Norm of the last dimension with a learned scale, and for kLayer perhaps a bias.
class Norm {
  public:
    Norm(std::string path, std::int64_t size, const NormSettings& settings)
        : path_(std::move(path)), size_(size), settings_(settings) {}

    const std::string& path() const { return path_; }
    std::int64_t size() const { return size_; }
    bool has_bias() const { return settings_.bias; }
    /// As stored, in fp32.
    const at::Tensor& weight() const { return weight_; }
    const at::Tensor& bias() const { return bias_; }
    /// In 16 bits transformers holds weights of the compute dtype. kRms rounds its weight when it multiplies;
    /// other kinds multiply with what they are given, so theirs are rounded here.
    void set_weight(const at::Tensor& weight, at::ScalarType compute = at::kFloat) {
        weight_ = settings_.kind == kernels::NormKind::kRms ? weight.to(at::kFloat) : held(weight, compute);
        if (settings_.offset) offset_weight_ = weight_ + 1;
    }
    /// The same of one of several heads that have weights of their own; `shape` is that of all, [heads, ..].
    void set_weight_of_head(std::int64_t head, at::IntArrayRef shape, const at::Tensor& weight,
                            at::ScalarType compute) {
        if (!weight_.defined()) weight_ = at::zeros(shape, at::kFloat);
        weight_.select(0, head).copy_(held(weight, compute));
    }
    void set_bias(const at::Tensor& bias, at::ScalarType compute = at::kFloat) {
        bias_ = held(bias, compute);
    }
    void train_whole_module() {
        weight_ = weight_.clone().requires_grad_();
        train_bias();
        offset_weight_.reset();
    }
    /// Makes the bias, if there is one, a parameter.
    void train_bias() {
        if (settings_.bias && !bias_.requires_grad()) bias_ = bias_.clone().requires_grad_();
    }

    void to(at::Device device) {
        for (at::Tensor* tensor : {&weight_, &bias_, &offset_weight_}) move_to(*tensor, device);
    }

    /// As it computes.
    ops::Norm used() const {
        at::Tensor weight = weight_;
        if (settings_.offset) weight = offset_weight_.defined() ? offset_weight_ : weight_ + 1;
        return {.kind = settings_.kind, .weight = std::move(weight), .bias = bias_, .eps = settings_.eps};
    }
    at::Tensor forward(const at::Tensor& x) const { return ops::normed(x, used()); }

  private:
    static at::Tensor held(const at::Tensor& values, at::ScalarType compute) {
        return values.to(compute).to(at::kFloat);
    }

    std::string path_;
    std::int64_t size_;
    NormSettings settings_;
    at::Tensor weight_, bias_;
    at::Tensor offset_weight_;  ///< 1 + a frozen weight; of a trained one it is made in each pass
};

}  // namespace qlora::nn
