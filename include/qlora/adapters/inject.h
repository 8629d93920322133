#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "qlora/adapters/lora_config.h"
#include "qlora/adapters/target_matching.h"
#include "qlora/models/causal_lm.h"
#include "qlora/nn/trainable_parameter.h"

namespace qlora::adapters {

/// What `inject` made of a model.
struct Adaptation {
    LoraConfig config;  ///< with `target_modules` expanded, as it is saved
    std::vector<Target> targets;
    std::vector<std::string> modules_to_save;  ///< module paths
    std::vector<nn::TrainableParameter> parameters;
    std::vector<std::string> warnings;

    std::int64_t trainable_elements() const;
};

/// The modules of the decoder that PEFT would see, for matching.
AdaptableModel adaptable_model(const models::DecoderSpec& decoder);

/// Sets the adapters that `config` asks for and marks what trains; everything else stays frozen. Throws
/// ConfigError.
Adaptation inject(models::CausalLM& model, const LoraConfig& config, std::uint64_t seed);

}  // namespace qlora::adapters
