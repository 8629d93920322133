#include "text_part.h"

namespace qlora::models {

/// Mistral Small 3.1 and later, Ministral 3: a mistral or a ministral3 beside a vision tower.
DecoderSpec mistral3(ConfigReader& config) {
    const Json mistral = {{"vocab_size", 32000},
                          {"hidden_size", 4096},
                          {"intermediate_size", 14336},
                          {"num_hidden_layers", 32},
                          {"num_attention_heads", 32}};
    const Json ministral3 = {{"vocab_size", 131072},
                             {"hidden_size", 4096},
                             {"intermediate_size", 14336},
                             {"num_hidden_layers", 34},
                             {"num_attention_heads", 32}};
    return text_part(config, {{"mistral", mistral}, {"ministral3", ministral3}});
}

}  // namespace qlora::models
