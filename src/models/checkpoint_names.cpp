#include "qlora/models/checkpoint_names.h"

#include "qlora/models/causal_lm.h"

namespace qlora::models {
namespace {

/// All parameters but the head's stand in this module.
constexpr std::string_view kDecoder = "model.";
const std::string kHead = std::string(CausalLM::kHeadPath) + ".";

std::string without_prefix(const std::string& parameter) {
    return parameter.starts_with(kDecoder) ? parameter.substr(kDecoder.size()) : parameter;
}

}  // namespace

CheckpointNames::CheckpointNames(const io::Checkpoint& checkpoint, const ModelConfig& config)
    : checkpoint_(&checkpoint) {
    head_is_embedding_ =
        config.tie_word_embeddings && holds(CausalLM::kHeadWeight) && !holds(CausalLM::kEmbeddingWeight);
}

std::string CheckpointNames::in_file(const std::string& parameter) const {
    if (head_is_embedding_ && parameter == CausalLM::kEmbeddingWeight) return CausalLM::kHeadWeight;
    if (checkpoint_->contains(parameter)) return parameter;
    const std::string bare = without_prefix(parameter);
    return checkpoint_->contains(bare) ? bare : parameter;
}

std::string CheckpointNames::parameter(const std::string& in_file) const {
    if (head_is_embedding_ && in_file == CausalLM::kHeadWeight) return CausalLM::kEmbeddingWeight;
    if (in_file.starts_with(kDecoder) || in_file.starts_with(kHead)) return in_file;
    return std::string(kDecoder) + in_file;
}

bool CheckpointNames::holds(const std::string& parameter) const {
    if (head_is_embedding_ && parameter == CausalLM::kHeadWeight) return false;
    return checkpoint_->contains(in_file(parameter));
}

}  // namespace qlora::models
