#pragma once

#include <array>
#include <span>
#include <string_view>

#include "../config_reader.h"
#include "qlora/models/decoder_spec.h"

namespace qlora::models {

/// A `model_type` and the function that describes its decoder. What all types have in common (token ids,
/// dtype, 4-bit settings) is read by the caller.
struct Architecture {
    std::string_view model_type;
    DecoderSpec (*describe)(ConfigReader& config);
    /// The linears that PEFT adapts where target_modules is missing, as its table lists them; empty: PEFT has
    /// no choice for the type.
    std::array<std::string_view, 4> lora_targets = {};
    /// Those that IA3 scales, the last one at its input.
    std::array<std::string_view, 3> ia3_targets = {};
};

std::span<const Architecture> architectures();
/// Null where no row has the type.
const Architecture* find_architecture(std::string_view model_type);

/// The ids that end a text are added.
void read_end_ids(ConfigReader& section, DecoderSpec& decoder);

}  // namespace qlora::models
