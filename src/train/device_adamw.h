#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "qlora/kernels/kernel_table.h"

namespace qlora::train {

/// The optimizer's kernels on a device: all tensors in one launch, and no wait but for the results asked for.
class DeviceAdamw {
  public:
    /// `tensors` point to device memory that stays where it is; `like` lies there too.
    DeviceAdamw(const std::vector<kernels::AdamwTensor>& tensors, const at::Tensor& like);

    void step(const kernels::AdamwSettings& settings) const;
    /// Sum of squares of all gradients, in double.
    double gradient_sum_of_squares() const { return sum_of_squares(gradients_); }
    /// Whether every parameter and moment (or scale of one) is finite.
    bool all_finite() const;

  private:
    /// Tables in device memory.
    struct Tables {
        at::Tensor tensors, chunks;
        std::int64_t chunk_count = 0;

        kernels::AdamwTables view() const;
    };

    Tables upload(const std::vector<kernels::AdamwTensor>& tensors) const;
    double sum_of_squares(const Tables& tables) const;

    at::Tensor like_;
    const kernels::KernelTable* kernels_;
    Tables gradients_;
    Tables values_;  ///< parameters, moments and scales in the place of gradients
};

}  // namespace qlora::train
