#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "qlora/io/checkpoint.h"
#include "support/tiny_model.h"

/// Names under which transformers reads a model's tensors besides its own.
namespace qlora::test {

using NamedTensors = std::map<std::string, TinyTensor>;

inline std::string bare_name(const std::string& name) {
    return name.starts_with("model.") ? name.substr(6) : name;
}

/// As a decoder is saved that has no head.
inline NamedTensors without_prefix(const NamedTensors& tensors) {
    NamedTensors out;
    for (const auto& [name, tensor] : tensors) out[bare_name(name)] = tensor;
    return out;
}

/// Of a tied model.
inline NamedTensors with_head_alone(NamedTensors tensors) {
    auto table = tensors.extract("model.embed_tokens.weight");
    table.key() = "lm_head.weight";
    tensors.insert(std::move(table));
    return tensors;
}

struct Spelling {
    const char* name;
    bool tied;
    std::function<NamedTensors(const NamedTensors&)> change;
};

inline std::vector<Spelling> spellings() {
    const auto bare = [](const NamedTensors& tensors) { return without_prefix(tensors); };
    const auto both = [](const NamedTensors& tensors) { return without_prefix(with_head_alone(tensors)); };
    const auto half = [](NamedTensors tensors) {
        auto norm = tensors.extract("model.norm.weight");
        norm.key() = "norm.weight";
        tensors.insert(std::move(norm));
        return tensors;
    };
    return {{"no prefix", false, bare},
            {"no prefix, tied", true, bare},
            {"one name without prefix", false, half},
            {"head alone", true, with_head_alone},
            {"head alone, no prefix", true, both}};
}

/// The config.json of a mistral3 whose text part has this one.
inline Json around_text(Json text) {
    Json out = {{"model_type", "mistral3"}, {"vision_config", {{"model_type", "pixtral"}}}};
    out["tie_word_embeddings"] = text["tie_word_embeddings"];
    text.erase("tie_word_embeddings");
    out["text_config"] = std::move(text);
    return out;
}

/// The tensors of such a model beside a vision tower, "model." and "lm_head." being called so. Those of the
/// tower need not be floating.
inline NamedTensors beside_vision(const NamedTensors& tensors, const std::string& decoder,
                                  const std::string& head, const std::string& vision) {
    NamedTensors out;
    for (const auto& [name, tensor] : tensors)
        out[name.starts_with("model.") ? decoder + name.substr(6) : head + name.substr(8)] = tensor;
    out[vision + "vision_tower.patch_conv.weight"] = {io::DType::kF32, {2, 3}, {1, 2, 3, 4, 5, 6}};
    out[vision + "multi_modal_projector.norm.weight"] = {io::DType::kI64, {2}, {0, 0}};
    return out;
}

/// A copy of a model folder of one file under other names.
inline void copy_renamed(const std::filesystem::path& model, const std::filesystem::path& folder,
                         const std::function<std::string(const std::string&)>& renamed) {
    std::filesystem::create_directory(folder);
    std::filesystem::copy_file(model / "config.json", folder / "config.json");
    const io::SafetensorsFile file(model / "model.safetensors");
    std::vector<io::TensorSpec> specs;
    for (const io::TensorView& view : file.tensors())
        specs.push_back({renamed(view.name), view.dtype, view.shape});
    io::SafetensorsWriter writer(folder / "model.safetensors", specs, file.metadata());
    for (const io::TensorView& view : file.tensors()) writer.append(view.bytes);
    writer.finish();
}

}  // namespace qlora::test
