#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qlora/adapters/inject.h"
#include "qlora/data/prompt_template.h"
#include "qlora/io/checkpoint.h"
#include "qlora/models/base_loader.h"
#include "qlora/models/causal_lm.h"
#include "qlora/quant/quant_config.h"
#include "qlora/tokenizer/tokenizer.h"

namespace qlora::cli {

/// Everything a model folder says before its weights are read.
struct ModelFolder {
    explicit ModelFolder(const std::filesystem::path& folder);

    std::filesystem::path folder;
    models::DecoderSpec config;
    io::Checkpoint checkpoint;
    /// Of a checkpoint whose linears are stored in 4 bits.
    std::optional<quant::QuantConfig> stored;
    std::unique_ptr<tokenizer::Tokenizer> tokenizer;
    tokenizer::SpecialTokens special;
    std::optional<std::string> chat_template, tool_template;

    /// What `config` chooses, with the variables that it gives. `clock`: what strftime_now tells.
    data::PromptTemplate prompt_template(const data::DataConfig& config, const jinja::LocalTime& clock) const;
    /// Where generation stops: generation_config.json's eos_token_id (a list is common), config.json's, the
    /// template's.
    std::vector<tokenizer::TokenId> stop_ids(const data::PromptTemplate& prompt_template) const;
};

/// Files that a model folder made from this one takes along: tokenizer, generation_config.json.
std::vector<std::filesystem::path> files_beside_weights(const std::filesystem::path& model);

/// A model with its adapter (if any), ready to run.
struct LoadedModel {
    std::unique_ptr<models::CausalLM> model;
    adapters::Adaptation adaptation;  ///< empty without an adapter
};

/// The adapter of a model that is loaded.
struct AdapterRequest {
    const adapters::PeftConfig* config = nullptr;  ///< null: none
    std::optional<std::filesystem::path> folder;   ///< whose tensors are taken
    std::int64_t seed = 0;                         ///< of its start
    bool finished = false;                         ///< used as it is, not trained
};

/// Loads the weights, quantizing them as asked, and sets the adapter. Everything lies on `device`.
/// `keep_dense`: whether forms of the frozen matrices that products read are kept besides; null: when memory
/// allows.
LoadedModel load_model(const ModelFolder& folder, const quant::QuantConfig& quantization,
                       const AdapterRequest& adapter, at::Device device,
                       std::optional<bool> keep_dense = std::nullopt);

/// Metadata of an adapter trained on this folder (fingerprints of base and tokenizer, the quantization; of a
/// base stored in 4 bits also the model it was made from).
std::map<std::string, std::string> adapter_metadata_for(const ModelFolder& folder,
                                                        const quant::QuantConfig& quantization);

/// CheckpointError when the adapter names another base than this folder's; an adapter without a fingerprint
/// passes.
void check_adapter_base(const std::filesystem::path& adapter, const ModelFolder& folder);

}  // namespace qlora::cli
