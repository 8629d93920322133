#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "qlora/adapters/peft_config.h"
#include "qlora/adapters/plan.h"
#include "qlora/models/causal_lm.h"
#include "qlora/nn/parameter.h"

namespace qlora::adapters {

/// A method at work in one model, which it outlives or dies with.
class Adapter {
  public:
    virtual ~Adapter() = default;
    /// What trains, in the order of the plan.
    virtual std::vector<nn::Parameter> parameters() const = 0;
};

/// What `inject` made of a model.
struct Adaptation {
    Plan plan;
    std::unique_ptr<Adapter> adapter;
    std::vector<nn::Parameter> parameters;  ///< of the adapter

    std::int64_t trainable_elements() const;
};

/// Sets what `config` asks for and marks what trains; everything else stays frozen. Throws ConfigError.
Adaptation inject(models::CausalLM& model, const PeftConfig& config, std::uint64_t seed);

}  // namespace qlora::adapters
