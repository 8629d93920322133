#pragma once

#include <map>
#include <string>

#include "qlora/adapters/plan.h"
#include "qlora/models/causal_lm.h"

namespace qlora::adapters {

/// The modules of a base by path, of which some may train themselves (modules_to_save, `bias`).
class BaseModules {
  public:
    explicit BaseModules(models::CausalLM& model);

    nn::Linear& linear(const std::string& path) const { return *linears_.at(path); }
    /// `fan_in_fan_out` as PEFT sets it by what it wraps: bitsandbytes' matrices are never in columns.
    bool any_dense_in_columns(const std::vector<Target>& targets) const;
    /// Makes a tensor of TrainedPart::kWeight or kBias a parameter, unless its module's other part did so
    /// already; returns it.
    at::Tensor train(const TrainedTensor& tensor);

  private:
    at::Tensor train_weight(const std::string& path);
    at::Tensor train_bias(const std::string& path);

    models::CausalLM& model_;
    std::map<std::string, nn::Linear*> linears_;
    std::map<std::string, nn::Norm*> norms_;
};

}  // namespace qlora::adapters
