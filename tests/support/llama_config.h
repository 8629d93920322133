#pragma once

#include "qlora/models/decoder_spec.h"

namespace qlora::test {

struct LlamaShape {
    std::int64_t vocab, hidden, inner, layers, heads, kv_heads, head_dim;
    bool tie = false;
};

/// The description of a llama model.
inline models::DecoderSpec llama_config(const LlamaShape& shape) {
    return models::parse_decoder_spec({{"model_type", "llama"},
                                       {"vocab_size", shape.vocab},
                                       {"hidden_size", shape.hidden},
                                       {"intermediate_size", shape.inner},
                                       {"num_hidden_layers", shape.layers},
                                       {"num_attention_heads", shape.heads},
                                       {"num_key_value_heads", shape.kv_heads},
                                       {"head_dim", shape.head_dim},
                                       {"tie_word_embeddings", shape.tie}},
                                      "config.json");
}

}  // namespace qlora::test
