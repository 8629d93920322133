#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "qlora/io/checkpoint.h"
#include "qlora/models/causal_lm.h"
#include "qlora/quant/bnb_matrix.h"
#include "qlora/quant/quant_config.h"

namespace qlora::models {

struct LoadOptions {
    /// A checkpoint stored in 4 bits must have been quantized so.
    quant::QuantConfig quantization;
    at::ScalarType compute_dtype = at::kFloat;
    at::Device device = at::kCPU;
    /// Linears that stay dense although the model is quantized (whole-module training); may be empty.
    std::function<bool(const std::string& path)> stays_dense;
};

/// The linears that a run holds in 4 bits, by their weights' names: all but routers, the head, and what a
/// folder stored in 4 bits skips; `config` must live as long. bitsandbytes leaves experts dense.
std::map<std::string, const spec::Linear*> quantizable_weights(const DecoderSpec& config);

/// What a checkpoint stores in 4 bits; empty for a dense one.
struct StoredQuantization {
    std::optional<quant::QuantConfig> config;
    std::map<std::string, quant::BnbMatrix> matrices;  ///< by the parameter's name
};

/// Throws CheckpointError with all faults unless the checkpoint holds exactly what `config` asks for: every
/// parameter of the architecture once with its shape (by either name, see CheckpointNames), 4-bit ones with
/// all their states, and no other tensor but foreign ones.
StoredQuantization check_base(const io::Checkpoint& checkpoint, const DecoderSpec& config);

/// Fills a model from a checkpoint, one tensor at a time: mapped, quantized if it is a linear (never the
/// embedding or the head) or copied if it is stored in 4 bits, placed, its pages given back. Every parameter
/// of the architecture is loaded exactly once with the right shape, or nothing is: all missing, extra and
/// misshapen tensors are reported together (CheckpointError). ConfigError where `options` ask for another
/// quantization than the stored one.
std::unique_ptr<CausalLM> load_base(const io::Checkpoint& checkpoint, const DecoderSpec& config,
                                    const LoadOptions& options);

}  // namespace qlora::models
