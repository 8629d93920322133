#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qlora/adapters/peft_config.h"
#include "qlora/adapters/target_matching.h"
#include "qlora/models/decoder_spec.h"

namespace qlora::adapters {

/// What of the model a trained tensor belongs to: to what the method adds, or to a module of the base itself.
enum class TrainedPart { kAdapter, kWeight, kBias };

/// A tensor that an adapter trains, known before there are weights. nn::Parameter is what `inject` makes of
/// it.
struct TrainedTensor {
    std::string key;     ///< in PEFT's file: "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    std::string module;  ///< "model.layers.0.self_attn.q_proj", or an adapted parameter
    std::string name;    ///< "lora_A.weight"
    TrainedPart part = TrainedPart::kAdapter;
    std::vector<std::int64_t> shape;
    bool decays = true;         ///< weight decay applies (not to biases and norms, as in the HF trainer)
    bool raised = false;        ///< LoRA+ multiplies its learning rate
    bool of_embedding = false;  ///< LoRA+ has a learning rate for what adapts an embedding
    bool leaves_zero = false;   ///< the first update must change it where it began as zeros
};

/// What a configuration makes of a model, from shapes alone: for dry run, memory plan, loading and merge.
struct Plan {
    PeftConfig config;  ///< as it is saved, `target_modules` expanded
    std::vector<Target> targets;
    std::vector<std::string> modules_to_save;  ///< paths of modules trained whole
    std::vector<std::string> warnings;
    std::vector<TrainedTensor> trained;  ///< in the order of the optimizer
    std::vector<TrainedTensor> saved;  ///< in the adapter's file; differ where a network makes what is saved
    std::vector<std::string> text;     ///< what is where, a line each: "30 x q_proj (r 8, scaling 2)"
    std::int64_t virtual_tokens = 0;   ///< before each text, as inputs of the first layer
    std::int64_t prefix_tokens = 0;    ///< before each text, as keys and values of all layers

    /// Values a token that backward reads besides, all layers together: what output scales multiplied, in
    /// attention and in the blocks behind it. What bottlenecks read and make counts as attention's wherever
    /// they stand: no MLP makes it again.
    std::int64_t kept_of_attention = 0, kept_of_mlp = 0;

    /// Positions before the first token of a text.
    std::int64_t tokens_before() const { return virtual_tokens + prefix_tokens; }
};

/// Throws ConfigError where the configuration does not fit the model.
Plan plan_adapter(const PeftConfig& config, const models::DecoderSpec& decoder);

std::int64_t trained_elements(const std::vector<TrainedTensor>& tensors);

/// A change of the `peft` section that takes less memory.
struct SmallerSetting {
    std::string text;  ///< "peft.r: 4"
    PeftConfig config;
};
std::vector<SmallerSetting> smaller_settings(const PeftConfig& config, const models::DecoderSpec& decoder);

/// The modules of the decoder that PEFT would see, for matching.
AdaptableModel adaptable_model(const models::DecoderSpec& decoder);

}  // namespace qlora::adapters
