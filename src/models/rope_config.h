#pragma once

#include <cstdint>

#include "config_reader.h"
#include "qlora/models/decoder_spec.h"

namespace qlora::models {

/// Reads `rope_scaling` or `rope_parameters`, whichever transformers would; a type that is not built is a
/// fault.
/// `default_theta` stands where the file has none.
RopeConfig read_rope(ConfigReader& reader, std::int64_t max_positions, double default_theta);

}  // namespace qlora::models
