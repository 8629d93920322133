#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "qlora/adapters/method_fields.h"

namespace qlora::adapters {

/// What PEFT's PromptLearningConfig has: settings of all methods that put trained tokens before a text.
struct VirtualTokens {
    std::int64_t num_virtual_tokens = 0;
    // Of the base, as PEFT fills them in; null: not compared.
    std::optional<std::int64_t> token_dim, num_transformer_submodules, num_attention_heads, num_layers;

    bool operator==(const VirtualTokens&) const = default;

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor& visit) {
        visit("num_virtual_tokens", self.num_virtual_tokens, {.min = 1, .required = true},
              "trained tokens before each text");
        constexpr const char* kFilled = "of the base, filled in; where it is given, it must be the base's";
        visit("token_dim", self.token_dim, {.min = 1, .free_on_resume = true}, kFilled);
        visit("num_transformer_submodules", self.num_transformer_submodules,
              {.min = 1, .free_on_resume = true}, kFilled);
        visit("num_attention_heads", self.num_attention_heads, {.min = 1, .free_on_resume = true}, kFilled);
        visit("num_layers", self.num_layers, {.min = 1, .free_on_resume = true}, kFilled);
    }
};

/// The fields at the end of each such configuration.
template <class Self, class Visitor>
void virtual_token_fields(Self& self, Visitor& visit) {
    VirtualTokens::fields(self.tokens, visit);
    method_fields(self, visit);
    visit.fixed("modules_to_save", nullptr, "whole modules beside virtual tokens are not built");
}

}  // namespace qlora::adapters
