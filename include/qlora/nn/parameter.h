#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace qlora::nn {

/// A tensor that is trained, under its key in PEFT's adapter file.
struct Parameter {
    std::string key;  ///< "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    at::Tensor tensor;
    bool decays = true;  ///< weight decay applies (not to biases and norms, as in the HF trainer)
    double rate = 1.0;   ///< its share of the learning rate
};

}  // namespace qlora::nn
