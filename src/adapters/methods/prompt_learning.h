#pragma once

#include <functional>
#include <memory>

#include "../method.h"
#include "qlora/adapters/prompt_encoder.h"
#include "qlora/adapters/virtual_tokens.h"

namespace qlora::adapters {

/// Trained rows before each text (Lester et al. 2021).
extern const Method kPromptTuning;
/// Rows that a network makes while it trains (Liu et al. 2021).
extern const Method kPTuning;
/// Trained keys and values before those of each text in every layer (Li and Liang 2021).
extern const Method kPrefixTuning;

// What the three have in common.

/// Query heads of a layer.
std::int64_t attention_heads(const models::DecoderSpec& decoder);

/// What a base has of the numbers in PEFT's configuration; of a prefix they are those of its keys.
struct BaseNumbers {
    std::int64_t token_dim, num_attention_heads;
};
/// Fills the numbers in. Throws ConfigError where one is given that is not the base's.
void fill_in(VirtualTokens& tokens, const BaseNumbers& base, const models::DecoderSpec& decoder);

/// The plan's tensors and lines of an encoder.
void set_encoder(Plan& plan, const PromptEncoderShape& shape);

/// An encoder's parameters and what is saved of it. `set_start` changes the values that it starts with,
/// unless the adapter is a finished one: then it is what the file holds, whatever made it.
std::shared_ptr<PromptEncoder> make_encoder(const PromptEncoderShape& shape, const InjectOptions& options,
                                            const std::function<void(PromptEncoder&)>& set_start);
std::unique_ptr<Adapter> adapter_of(std::shared_ptr<PromptEncoder> encoder, Plan& plan);
/// The same, its rows put before each text of the model.
std::unique_ptr<Adapter> attach_prompt(models::CausalLM& model, std::shared_ptr<PromptEncoder> encoder,
                                       Plan& plan);

/// Ids of a text, repeated and cut to so many. Throws ConfigError where it has none.
std::vector<std::int64_t> text_tokens(const InjectOptions& options, const std::string& text,
                                      std::int64_t tokens);

}  // namespace qlora::adapters
