#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qlora/io/safetensors.h"
#include "qlora/quant/quant_config.h"

/// How the tensors of a bnb_matrix.h are written.
namespace qlora::quant {

/// The JSON text of a matrix; the offset is written with double quantization only.
std::string bnb_state_text(std::int64_t rows, std::int64_t columns, const QuantConfig& config,
                           float nested_offset);

/// The tensors of a matrix quantized with `config`, the weight's own first.
std::vector<io::TensorSpec> bnb_specs(const std::string& weight, std::int64_t rows, std::int64_t columns,
                                      const QuantConfig& config, const std::string& state_text);

}  // namespace qlora::quant
