#pragma once

#include "qlora/models/model_config.h"

namespace qlora::test {

struct LlamaShape {
    std::int64_t vocab, hidden, inner, layers, heads, kv_heads, head_dim;
};

/// The configuration of a llama model as far as shapes go.
inline models::ModelConfig llama_config(const LlamaShape& shape) {
    models::ModelConfig config;
    config.model_type = "llama";
    config.vocab_size = shape.vocab;
    config.hidden_size = shape.hidden;
    config.intermediate_size = shape.inner;
    config.num_hidden_layers = shape.layers;
    config.num_attention_heads = shape.heads;
    config.num_key_value_heads = shape.kv_heads;
    config.head_dim = shape.head_dim;
    config.sliding_window.assign(static_cast<std::size_t>(shape.layers), 0);
    return config;
}

}  // namespace qlora::test
