#pragma once

#include "qlora/core/json.h"

namespace qlora::tokenizer {

/// Whether transformers' AutoTokenizer (5.x) reads the folder with its class LlamaTokenizer. That class goes
/// by `legacy` and `add_prefix_space` of the configuration, not by the normalizer and pre-tokenizer of
/// tokenizer.json. `model_config`: config.json; both may be empty.
bool takes_llama_class(const Json& tokenizer_config, const Json& model_config);

/// The tokenizer.json that the class makes of the vocabulary, merges and added tokens of `tokenizer`; the
/// same where its model is no BPE or it works on bytes.
Json as_llama_class(Json tokenizer, const Json& tokenizer_config);

}  // namespace qlora::tokenizer
