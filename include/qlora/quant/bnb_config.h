#pragma once

#include <string>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/io/dtype.h"
#include "qlora/quant/quant_config.h"

namespace qlora::quant {

/// What `quantization_config` in a config.json says of a checkpoint whose linears bitsandbytes holds in 4
/// bits. The blocksize is not in it: each matrix has its own.
struct BnbConfig {
    bool double_quant = false;
    io::DType storage = io::DType::kU8;     ///< under which the packed codes are stored: the same bytes
    std::vector<std::string> skip_modules;  ///< linears that stay dense besides the head

    /// As transformers matches a list of plain names: the path begins with one, up to a dot, or ends with
    /// one.
    bool skips(const std::string& path) const;
};

/// Reads the section. A fault is whatever does not describe NF4 weights of bitsandbytes, and any key that
/// might change numbers and is not known here.
BnbConfig read_bnb_config(const Json& section, FaultList& faults);

/// The section as transformers writes it for weights quantized with `config`.
Json bnb_config_json(const QuantConfig& config);

/// The compute dtype's name in transformers; `kAuto` is float32, its default.
std::string compute_dtype_name(ComputeDtype dtype);

/// Settings of `wanted` that weights stored with `stored` cannot have, "bnb_4bit_blocksize: 128, stored is
/// 64"; the compute dtype is free.
std::vector<std::string> contradictions(const QuantConfig& wanted, const QuantConfig& stored);

}  // namespace qlora::quant
