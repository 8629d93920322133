#pragma once

#include <cstdint>
#include <string>

#include "qlora/adapters/inject.h"
#include "qlora/models/causal_lm.h"
#include "qlora/nn/forward_context.h"
#include "qlora/quant/quant_config.h"

namespace qlora::train {

/// Bytes that a run will need at its worst moment, from shapes alone.
struct MemoryPlan {
    std::int64_t weights = 0;       ///< as stored: packed linears, dense embedding and head
    std::int64_t dense_copies = 0;  ///< what products read: kept fp32 forms; on a GPU kept or two buffers
    std::int64_t adapters = 0;      ///< parameters, gradients, both moments
    std::int64_t activations = 0;   ///< kept for backward, of the largest micro-batch
    std::int64_t working = 0;       ///< temporaries of the loss or of a layer's backward pass, the larger
    std::int64_t data = 0;          ///< the encoded rows, which are there when a plan is made
    std::int64_t baseline = 0;      ///< LibTorch itself

    std::int64_t total() const { return needed() + data + baseline; }
    /// What a program that has begun still has to get.
    std::int64_t needed() const { return weights + dense_copies + adapters + activations + working; }
    std::string text() const;
};

/// What a plan is made for.
struct MemoryRequest {
    models::DecoderSpec config;
    quant::QuantConfig quantization;
    std::int64_t trained_elements = 0;   ///< of all that trains (adapters::trained_elements)
    std::int64_t moment_bytes = 0;       ///< the optimizer's, of the same (train::moment_bytes)
    std::int64_t tokens = 0;             ///< in the largest micro-batch
    std::int64_t supervised_tokens = 0;  ///< in the same
    std::int64_t longest_row = 0;        ///< tokens of the longest sequence
    std::int64_t kept_of_attention = 0;  ///< adapters::Plan's, as kept_of_mlp
    std::int64_t kept_of_mlp = 0;
    std::int64_t head_rank = 0, embedding_rank = 0;  ///< of adapters on head and embedding
    std::int64_t data_bytes = 0;                     ///< of all encoded rows (data::held_bytes)
    std::int64_t bytes_per_element = 4;              ///< of activations
    std::int64_t stored_bytes_per_weight = 2;        ///< of dense weights, as on disk
    nn::Recomputation recomputation = nn::Recomputation::kNone;
    bool keep_dense = false;
    bool on_gpu = false;
};

MemoryPlan plan_memory(const MemoryRequest& request);

/// Bytes that the machine can still give (qlora::available_memory); of a GPU what is free there.
std::int64_t available_memory_bytes(at::Device device = at::kCPU);

/// ResourceError, ending with `advice`, when the plan is beyond what is available by more than its own
/// uncertainty.
void require_memory(const MemoryPlan& plan, std::int64_t available, const std::string& advice);

/// What makes a run need less memory, for messages of programs that have no plan.
inline constexpr const char* kMemoryAdvice =
    "what helps most: a smaller training.per_device_train_batch_size, a smaller data.max_length, "
    "training.gradient_checkpointing: true";

/// Most bytes of fp32 forms that are kept beside the weights when `available` are free: a quarter.
std::int64_t dense_limit(std::int64_t available);

/// "1.25 GB".
std::string gigabytes(std::int64_t bytes);

}  // namespace qlora::train
