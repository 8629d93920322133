#pragma once

#include <filesystem>
#include <string>

namespace qlora::io {

/// One sentence that names the path, says why it is no model folder (config.json beside `*.safetensors`),
/// which of the usual mistakes it is, and what to do: a name on the Hugging Face Hub, the folder of its cache
/// above the snapshot, an adapter, a file, only pickle or GGUF weights, an empty folder, a link that leads
/// nowhere. Empty where there is nothing to say. What is in the files is not looked at.
std::string fault_of_model_folder(const std::filesystem::path& path);

/// Throws CheckpointError with `fault_of_model_folder`, if there is one.
void require_model_folder(const std::filesystem::path& path);

/// Whether the folder has this name, a link that leads nowhere included.
bool is_there(const std::filesystem::path& path);

/// By the ending of its name: the formats of torch.save, which can run code when they are read.
bool is_pickle(const std::filesystem::path& file);

inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kModelIndexFile = "model.safetensors.index.json";
/// What to do with pickle files.
inline constexpr const char* kConvertPickles =
    "convert to safetensors first (load it once with transformers where you trust it and call "
    "save_pretrained)";

}  // namespace qlora::io
