#pragma once

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
};

std::span<const Architecture> architectures();

}  // namespace qlora::models
