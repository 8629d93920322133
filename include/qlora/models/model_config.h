#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/quant/bnb_config.h"

namespace qlora::models {

enum class RopeType { kDefault, kLinear, kLlama3 };

/// Rotary embedding as `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5) spell it.
struct RopeConfig {
    RopeType type = RopeType::kDefault;
    double theta = 10000.0;
    double factor = 1.0;  ///< linear, llama3
    double low_freq_factor = 1.0;
    double high_freq_factor = 4.0;
    std::int64_t original_max_position_embeddings = 8192;
};

/// What a checkpoint's `config.json` says of a llama-like decoder; defaults are transformers' per
/// `model_type`.
struct ModelConfig {
    std::string model_type;
    std::int64_t vocab_size = 0;
    std::int64_t hidden_size = 0;
    std::int64_t intermediate_size = 0;
    std::int64_t num_hidden_layers = 0;
    std::int64_t num_attention_heads = 0;
    std::int64_t num_key_value_heads = 0;
    std::int64_t head_dim = 0;
    std::int64_t max_position_embeddings = 0;
    double rms_norm_eps = 1e-6;
    bool tie_word_embeddings = false;
    bool query_key_value_bias = false;
    bool output_bias = false;  ///< of o_proj
    bool mlp_bias = false;
    bool query_key_norm = false;
    RopeConfig rope;
    std::vector<std::int64_t> sliding_window;  ///< per layer; 0 = full attention
    std::string dtype;                         ///< as on disk, "bfloat16" say; may be empty
    std::vector<std::int64_t> eos_token_ids;
    /// transformers' nn.Embedding has it as padding_idx: its row gets no gradient when the embedding is
    /// trained.
    std::optional<std::int64_t> pad_token_id;
    /// The checkpoint holds its linears in 4 bits.
    std::optional<quant::BnbConfig> stored_in_4bit;
    /// A sentence for each key that transformers might act on and that changes nothing here.
    std::vector<std::string> passed_over;
};

/// Throws CheckpointError with all faults: unknown `model_type`, missing or impossible sizes, any setting
/// that would change numbers and is not built (never guessed).
ModelConfig parse_model_config(const Json& json, const std::string& name);
ModelConfig load_model_config(const std::filesystem::path& folder);

/// A log line for each sentence of `passed_over`; once a program.
void log_passed_over(const ModelConfig& config);

/// The tokens a row may have before its last ones stand where the model has never seen any.
/// `max_position_embeddings` counts what `rope_scaling` adds, except where it was left as it was before a
/// llama3 scaling was put in. (Of linear scaling a file does not tell; it is taken as counted.)
std::int64_t trained_positions(const ModelConfig& config);

/// `model_type`s that can be loaded.
const std::vector<std::string>& supported_model_types();

}  // namespace qlora::models
