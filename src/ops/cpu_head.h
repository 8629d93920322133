#pragma once

#include <functional>

#include "cross_entropy_backends.h"

namespace qlora::ops {

/// The output head on the CPU: chunks of rows, panels of the head, products in fp32. What happens to a
/// chunk's logits [n, V], which lie in fp32 whatever the type of hidden, differs.
class CpuHead {
  public:
    CpuHead(const FrozenWeight& head, const LogitRule& rule) : head_(head), rule_(rule) {}
    virtual ~CpuHead() = default;
    CpuHead(const CpuHead&) = delete;
    CpuHead& operator=(const CpuHead&) = delete;

    HeadLoss loss(const at::Tensor& hidden, const at::Tensor& targets, WantedGradients wanted) const;
    at::Tensor logits(const at::Tensor& hidden) const;
    TokenScores score(const at::Tensor& hidden, const at::Tensor& targets) const;

  protected:
    /// Products, with their bias, become logits.
    virtual void finish(const at::Tensor& logits) const = 0;
    /// Products become their gradients, if wanted; returns the sum of the losses.
    virtual double softmax(const at::Tensor& logits, const at::Tensor& targets,
                           bool wants_gradient) const = 0;
    const LogitRule& rule() const { return rule_; }

  private:
    at::Tensor products_into(const at::Tensor& hidden, const at::Tensor& buffer) const;

    const FrozenWeight& head_;
    const LogitRule& rule_;
};

/// Calls row(logits of a row, its target, place of its loss) on all threads; returns the sum of the losses.
double sum_of_rows(const at::Tensor& logits, const at::Tensor& targets,
                   const std::function<void(float* logits, const std::int64_t* target, double* loss)>& row);

}  // namespace qlora::ops
