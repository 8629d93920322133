#include "qlora/models/checkpoint_names.h"

#include <algorithm>

#include "qlora/core/log.h"

namespace qlora::models {
namespace {

/// The module that all parameters but the head's stand in, "model.".
std::string decoder_prefix(const DecoderSpec& config) {
    return config.embedding.substr(0, config.embedding.find('.') + 1);
}

std::string replaced(const std::string& name, const std::string& prefix, const std::string& other) {
    return other + name.substr(prefix.size());
}

/// The longest spelling on disk that the name begins with; null where it has none.
const spec::Rename* rename_of(const DecoderSpec& config, const std::string& in_file) {
    const spec::Rename* longest = nullptr;
    for (const spec::Rename& rename : config.renames) {
        const bool is_longer = longest == nullptr || rename.disk.size() > longest->disk.size();
        if (in_file.starts_with(rename.disk) && is_longer) longest = &rename;
    }
    return longest;
}

}  // namespace

std::string parameter_named(const DecoderSpec& config, const std::string& in_file) {
    if (const spec::Rename* rename = rename_of(config, in_file))
        return replaced(in_file, rename->disk, rename->module);
    const std::string prefix = decoder_prefix(config);
    const bool is_own = in_file.starts_with(prefix) || in_file.starts_with(config.head.path + ".");
    return is_own ? in_file : prefix + in_file;
}

bool is_foreign(const DecoderSpec& config, const std::string& name) {
    return std::any_of(config.foreign.begin(), config.foreign.end(),
                       [&](const std::string& begin) { return name.starts_with(begin); });
}

CheckpointNames::CheckpointNames(const io::Checkpoint& checkpoint, const DecoderSpec& config)
    : checkpoint_(&checkpoint),
      config_(&config),
      head_(config.head_weight()),
      embedding_(config.embedding_weight()) {
    choose_spellings();
    head_is_embedding_ = config.tie_word_embeddings && holds(head_) && !holds(embedding_);
}

/// Each module is spelled as the file has it; one that the file lacks, like the others.
void CheckpointNames::choose_spellings() {
    if (config_->renames.empty()) return;
    bool any_as_module = false;
    for (const std::string& name : checkpoint_->names()) {
        if (is_foreign(name)) continue;
        if (const spec::Rename* rename = rename_of(*config_, name)) {
            spellings_.emplace(rename->module, rename->disk);
            continue;
        }
        for (const spec::Rename& rename : config_->renames) {
            if (!name.starts_with(rename.module)) continue;
            spellings_.emplace(rename.module, rename.module);
            any_as_module = true;
        }
    }
    for (const spec::Rename& rename : config_->renames)
        spellings_.emplace(rename.module, any_as_module ? rename.module : rename.disk);
}

std::string CheckpointNames::in_file(const std::string& parameter) const {
    if (head_is_embedding_ && parameter == embedding_) return in_file(head_);
    if (checkpoint_->contains(parameter)) return parameter;
    for (const spec::Rename& rename : config_->renames) {
        if (!parameter.starts_with(rename.module)) continue;
        const std::string spelled = replaced(parameter, rename.module, rename.disk);
        if (checkpoint_->contains(spelled)) return spelled;
    }
    const std::string prefix = decoder_prefix(*config_);
    if (parameter.starts_with(prefix)) {
        const std::string bare = parameter.substr(prefix.size());
        if (checkpoint_->contains(bare)) return bare;
    }
    return written(parameter);
}

std::string CheckpointNames::parameter(const std::string& in_file) const {
    const std::string parameter = parameter_named(*config_, in_file);
    return head_is_embedding_ && parameter == head_ ? embedding_ : parameter;
}

std::string CheckpointNames::written(const std::string& parameter) const {
    for (const auto& [module, disk] : spellings_) {
        if (parameter.starts_with(module)) return replaced(parameter, module, disk);
    }
    return parameter;
}

bool CheckpointNames::holds(const std::string& parameter) const {
    if (head_is_embedding_ && parameter == head_) return false;
    return checkpoint_->contains(in_file(parameter));
}

void log_passed_over(const io::Checkpoint& checkpoint, const DecoderSpec& config) {
    log_passed_over(config);
    std::int64_t foreign = 0;
    const std::vector<std::string>& names = checkpoint.names();
    const std::string* first = nullptr;
    for (const std::string& name : names) {
        if (!is_foreign(config, name)) continue;
        if (first == nullptr) first = &name;
        ++foreign;
    }
    if (foreign == 0) return;
    spdlog::info("{}: {} tensors of other parts than the language model are passed over ({} is the first)",
                 checkpoint.folder().string(), foreign, *first);
}

}  // namespace qlora::models
