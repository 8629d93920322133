#pragma once

#include "parts.h"

/// Text parts of models that also see images.
namespace qlora::models {

/// The decoder in the `text_config` of such a model; the tensors of its other parts are foreign. `describe`
/// reads that section and puts `prefix` before the paths of its modules.
DecoderSpec wrapped_decoder(ConfigReader& config,
                            DecoderSpec (*describe)(ConfigReader& text, const std::string& prefix));

// What may stand in such a section and by itself.
DecoderSpec mistral_decoder(ConfigReader& config, const std::string& prefix);
DecoderSpec ministral3_decoder(ConfigReader& config, const std::string& prefix);

}  // namespace qlora::models
