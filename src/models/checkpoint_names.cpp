#include "qlora/models/checkpoint_names.h"

namespace qlora::models {
namespace {

/// All parameters but the head's stand in this module.
constexpr std::string_view kDecoder = "model.";

std::string without_prefix(const std::string& parameter) {
    return parameter.starts_with(kDecoder) ? parameter.substr(kDecoder.size()) : parameter;
}

}  // namespace

CheckpointNames::CheckpointNames(const io::Checkpoint& checkpoint, const DecoderSpec& config)
    : checkpoint_(&checkpoint), head_(config.head_weight()), embedding_(config.embedding_weight()) {
    head_is_embedding_ = config.tie_word_embeddings && holds(head_) && !holds(embedding_);
}

std::string CheckpointNames::in_file(const std::string& parameter) const {
    if (head_is_embedding_ && parameter == embedding_) return head_;
    if (checkpoint_->contains(parameter)) return parameter;
    const std::string bare = without_prefix(parameter);
    return checkpoint_->contains(bare) ? bare : parameter;
}

std::string CheckpointNames::parameter(const std::string& in_file) const {
    if (head_is_embedding_ && in_file == head_) return embedding_;
    if (in_file.starts_with(kDecoder) || in_file.starts_with(head_.substr(0, head_.rfind('.') + 1)))
        return in_file;
    return std::string(kDecoder) + in_file;
}

bool CheckpointNames::holds(const std::string& parameter) const {
    if (head_is_embedding_ && parameter == head_) return false;
    return checkpoint_->contains(in_file(parameter));
}

}  // namespace qlora::models
