#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "qlora/models/folder_writer.h"
#include "qlora/quant/quant_config.h"

namespace qlora::models {

/// Metadata key of a quantized folder's shards: the fingerprint of the model it was made from.
inline constexpr const char* kOriginalKey = "qlora.original";

struct QuantizeRequest {
    std::filesystem::path model;
    std::filesystem::path output;  ///< must be new or empty
    quant::QuantConfig config;
    CompanionFiles companions;             ///< besides config.json
    std::function<bool()> stop_requested;  ///< asked before each tensor; may be empty
};

struct QuantizeReport {
    std::filesystem::path output;
    std::int64_t matrices = 0;      ///< quantized
    std::int64_t tensors = 0;       ///< written in all, states counted
    std::int64_t bytes_before = 0;  ///< of all tensors
    std::int64_t bytes_after = 0;
};

/// Writes a model folder whose linears bitsandbytes' 4-bit layers hold, in the same shards; the embedding,
/// the head and everything else are copied. Reads the model twice, one matrix at a time: first for its
/// fingerprint and the scales' offsets, which stand in texts whose lengths a file's header needs, then to
/// write. The output appears whole or not at all. Throws ConfigError, CheckpointError, ResourceError,
/// Stopped.
QuantizeReport quantize_checkpoint(const QuantizeRequest& request);

}  // namespace qlora::models
