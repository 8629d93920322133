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
