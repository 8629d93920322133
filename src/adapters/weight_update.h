#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

namespace qlora::adapters {

/// What a merge makes of one matrix of the base.
class WeightUpdate {
  public:
    virtual ~WeightUpdate() = default;
    /// What is added to `rows` [n, in] fp32, which are rows first .. first + n - 1 of the matrix [out, in].
    virtual at::Tensor delta(const at::Tensor& rows, std::int64_t first) const = 0;
};

struct PlannedUpdate {
    std::string module;
    /// Reads it from the adapter's file, when its matrix's turn has come.
    std::function<std::unique_ptr<WeightUpdate>()> load;
};
/// By the names of the base's parameters.
struct PlannedUpdates {
    std::map<std::string, PlannedUpdate> weights;
    /// What becomes of a bias [out], fp32.
    std::map<std::string, std::function<at::Tensor(const at::Tensor& bias)>> biases;
    bool keeps_tie = false;  ///< embedding and head both change, and alike
};

}  // namespace qlora::adapters
