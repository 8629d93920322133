#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "qlora/nn/move.h"
#include "qlora/ops/rms_norm.h"

namespace qlora::nn {

/// Root-mean-square norm of the last dimension with a learned scale.
class RmsNorm {
  public:
    RmsNorm(std::string path, std::int64_t size, double eps)
        : path_(std::move(path)), size_(size), eps_(eps) {}

    const std::string& path() const { return path_; }
    std::int64_t size() const { return size_; }
    double eps() const { return eps_; }
    /// fp32, as kernels read it: every stored dtype fits into it without rounding.
    const at::Tensor& weight() const { return weight_; }
    void set_weight(const at::Tensor& weight) { weight_ = weight.to(at::kFloat); }
    void train_whole_module() { weight_ = weight_.clone().requires_grad_(); }

    void to(at::Device device) { move_to(weight_, device); }

    at::Tensor forward(const at::Tensor& x) const { return ops::rms_norm(x, weight_, eps_); }

  private:
    std::string path_;
    std::int64_t size_;
    double eps_;
    at::Tensor weight_;
};

}  // namespace qlora::nn
