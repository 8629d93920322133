#pragma once

#include <string_view>
#include <vector>

#include "../config_reader.h"
#include "qlora/models/decoder_spec.h"

namespace qlora::models {

/// A type that the text part of a model may have, and transformers' defaults for its sizes, all of which a
/// config.json may leave out there.
struct TextType {
    std::string_view model_type;
    Json sizes;
};

/// The decoder of a model of pictures and text: config.json holds its keys in `text_config`, transformers
/// puts it below `model.language_model`, and files name it in one of several ways; the vision tower and its
/// projector are foreign. `types` are those that text_config.model_type may name, the first where it is
/// missing. Whether the head is tied is said outside of the section, and true where it is not said.
DecoderSpec text_part(ConfigReader& config, const std::vector<TextType>& types);

}  // namespace qlora::models
