#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
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
    /// What the adapter's file holds. Where `is_source` these are the trained tensors themselves, perhaps
    /// under other keys, so that training can go on from the file; else they are made of them.
    virtual std::vector<nn::Parameter> saved() const { return parameters(); }
    virtual bool is_source() const { return true; }
};

struct InjectOptions {
    std::uint64_t seed = 0;
    /// Ids of a text with the special tokens that the tokenizer adds; asked where the configuration starts
    /// from a text.
    std::function<std::vector<std::int64_t>(const std::string&)> encode = {};
    /// The adapter is used as its file has it, not trained on.
    bool finished = false;
};

/// What `inject` made of a model.
struct Adaptation {
    Plan plan;
    std::unique_ptr<Adapter> adapter;
    std::vector<nn::Parameter> parameters;  ///< of the adapter

    std::int64_t trainable_elements() const;
};

/// Sets what `config` asks for and marks what trains; everything else stays frozen. Throws ConfigError.
Adaptation inject(models::CausalLM& model, const PeftConfig& config, const InjectOptions& options);
Adaptation inject(models::CausalLM& model, const PeftConfig& config, std::uint64_t seed);

}  // namespace qlora::adapters
