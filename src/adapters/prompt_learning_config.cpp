#include "name_checks.h"
#include "qlora/adapters/prefix_tuning_config.h"
#include "qlora/adapters/prompt_encoder_config.h"
#include "qlora/adapters/prompt_tuning_config.h"

namespace qlora::adapters {
void check_config(const PromptTuningConfig& config, const std::string& path, FaultList& faults) {
    const bool is_text = config.prompt_tuning_init == PromptTuningInit::kText;
    if (is_text && config.prompt_tuning_init_text.value_or("").empty()) {
        faults.add(path_to(path, "prompt_tuning_init_text"), "is missing: prompt_tuning_init is TEXT");
    }
    if (!is_text && config.prompt_tuning_init_text) {
        faults.add(path_to(path, "prompt_tuning_init_text"),
                   "has no effect unless prompt_tuning_init is TEXT");
    }
}

void check_config(const PromptEncoderConfig& config, const std::string& path, FaultList& faults) {
    if (config.encoder_reparameterization_type == EncoderType::kMlp && config.encoder_dropout != 0.0)
        faults.add(path_to(path, "encoder_dropout"), "has no effect on an MLP; it is for LSTM");
}

void check_config(const PrefixTuningConfig& config, const std::string& path, FaultList& faults) {
    // PEFT's files have it filled in like token_dim.
    if (config.encoder_hidden_size && !config.prefix_projection && !config.tokens.token_dim) {
        faults.add(path_to(path, "encoder_hidden_size"), "has no effect without prefix_projection");
    }
    if (!config.prefix_init_text) return;
    if (config.prefix_init_text->empty())
        faults.add(path_to(path, PrefixTuningConfig::kInitText), "is empty");
    if (config.init_weights || config.prefix_projection) {
        faults.add(path_to(path, PrefixTuningConfig::kInitText),
                   "is a start of its own: leave out init_weights and prefix_projection");
    }
}

}  // namespace qlora::adapters
