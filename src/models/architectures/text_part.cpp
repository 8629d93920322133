#include "text_part.h"

#include <algorithm>

#include "registry.h"

namespace qlora::models {
namespace {

constexpr const char* kSection = "text_config";

void move_below_language_model(std::string& path) {
    constexpr std::string_view kDecoder = "model.";
    if (path.starts_with(kDecoder)) path.insert(kDecoder.size(), "language_model.");
}

void move_paths(DecoderSpec& decoder) {
    const auto move = [](auto& part) { move_below_language_model(part.path); };
    const auto move_if_any = [&](std::optional<spec::Norm>& norm) {
        if (norm) move(*norm);
    };
    move_below_language_model(decoder.embedding);
    move_below_language_model(decoder.positions);
    move(decoder.final_norm);
    for (spec::Layer& layer : decoder.layers) {
        for (spec::Branch& branch : layer.branches) {
            move_if_any(branch.pre);
            move_if_any(branch.post);
            spec::for_each_linear(branch.block, move);
            if (auto* experts = std::get_if<spec::Experts>(&branch.block))
                move_below_language_model(experts->path);
            if (auto* attention = std::get_if<spec::Attention>(&branch.block)) {
                move_if_any(attention->q_norm);
                move_if_any(attention->k_norm);
            }
        }
    }
}

DecoderSpec describe(const Json& section, const std::vector<TextType>& types, FaultList& faults) {
    ConfigReader asked(section, faults);
    const std::string wanted = asked.text("model_type", std::string(types.front().model_type));
    std::string known;
    for (const TextType& type : types) {
        known += (known.empty() ? "" : ", ") + std::string(type.model_type);
        if (type.model_type != wanted) continue;
        Json whole = type.sizes;
        whole.update(section);
        ConfigReader text(whole, faults);
        DecoderSpec decoder = find_architecture(wanted)->describe(text);
        read_end_ids(text, decoder);
        return decoder;
    }
    faults.add("model_type",
               "'" + wanted + "' is not supported as the text part of this model; supported are " + known);
    return {};
}

}  // namespace

DecoderSpec text_part(ConfigReader& config, const std::vector<TextType>& types) {
    static const Json kEmpty = Json::object();
    const bool is_there = config.has(kSection) && config.json().at(kSection).is_object();
    if (!is_there) config.faults().add(kSection, "must be an object with the keys of the text model");
    FaultList faults;
    DecoderSpec decoder = describe(is_there ? config.json().at(kSection) : kEmpty, types, faults);
    for (const std::string& fault : faults.faults()) config.faults().add("", kSection + ("." + fault));
    for (std::string& line : decoder.passed_over) line.insert(0, std::string(kSection) + ".");

    move_paths(decoder);
    decoder.tie_word_embeddings = config.boolean("tie_word_embeddings", true);
    decoder.tied_by_default = !config.has("tie_word_embeddings");
    // transformers saves the first spelling of each, and reads the modules' own names too.
    decoder.renames = {{"model.language_model.", "language_model.model."},
                       {"model.language_model.", "model.language_model.model."},
                       {"lm_head.", "language_model.lm_head."}};
    for (const char* module : {"vision_tower.", "multi_modal_projector."}) {
        decoder.foreign.emplace_back(module);
        decoder.foreign.push_back(std::string("model.") + module);
    }
    return decoder;
}

}  // namespace qlora::models
