#include "wrapper.h"

namespace qlora::models {

DecoderSpec wrapped_decoder(ConfigReader& config,
                            DecoderSpec (*describe)(ConfigReader& text, const std::string& prefix)) {
    const std::string prefix = "model.language_model.";
    Json section = Json::object();
    if (config.has("text_config") && config.json().at("text_config").is_object())
        section = config.json().at("text_config");
    else
        config.faults().add("text_config", "must be an object");
    FaultList inner;
    ConfigReader text(section, inner);
    DecoderSpec out = describe(text, prefix);
    for (const std::string& fault : inner.faults()) config.faults().add("", "text_config." + fault);
    out.tie_word_embeddings = config.boolean("tie_word_embeddings", true);
    out.renames = {{.module = prefix, .disk = "language_model.model."},
                   {.module = "lm_head.", .disk = "language_model.lm_head."}};
    out.foreign = {"vision_tower.", "multi_modal_projector."};
    return out;
}

}  // namespace qlora::models
