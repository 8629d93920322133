#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qlora/adapters/target_matching.h"
#include "qlora/models/decoder_spec.h"

namespace qlora::adapters {

enum class TrainedPart { kLoraA, kLoraB, kWeight, kBias };

/// A tensor that an adapter trains, known before there are weights: its key in PEFT's file, and the part of
/// the model it belongs to. nn::TrainableParameter is what `inject` makes of it.
struct TrainedTensor {
    std::string key;     ///< "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    std::string module;  ///< "model.layers.0.self_attn.q_proj", or an adapted parameter
    TrainedPart part = TrainedPart::kLoraA;
    std::vector<std::int64_t> shape;
    bool decays = true;  ///< weight decay applies (not to biases and norms, as in the HF trainer)
};

/// Everything that a matched configuration trains, in the order of the optimizer.
std::vector<TrainedTensor> trained_tensors(const MatchResult& match, const models::DecoderSpec& decoder);
std::int64_t trained_elements(const std::vector<TrainedTensor>& tensors);

}  // namespace qlora::adapters
