#pragma once

#include <filesystem>
#include <string>

#include "qlora/adapters/bottleneck_config.h"

/// The files of AdapterHub's package adapters 1.3.0.
namespace qlora::adapters::adapter_hub {

inline constexpr const char* kWeightsFile = "adapter.safetensors";
inline constexpr const char* kPickledWeightsFile = "pytorch_adapter.bin";
/// What an adapter of ours is called in its files.
inline constexpr const char* kName = "qlora";

/// Whether the content of an adapter_config.json is AdapterHub's: PEFT's has a peft_type.
bool is_config(const Json& json);
/// Of a folder's adapter_config.json; false where there is none.
bool is_folder(const std::filesystem::path& folder);

/// Strict, as parse_adapter_config.
BottleneckConfig parse_config(const Json& json, const std::string& name);
/// As save_adapter writes it.
std::string config_text(const BottleneckConfig& config);

/// "model.layers.0.output_adapters" and "adapter_up.weight" make the key of a tensor of ours.
std::string key_of(const std::string& module, const std::string& tensor);
/// The key of a tensor of the adapter that is called so as one of ours has it.
std::string our_key(std::string key, const std::string& name);

/// Whether the package adapts models of this type without being told how.
bool knows(const std::string& model_type);

}  // namespace qlora::adapters::adapter_hub
