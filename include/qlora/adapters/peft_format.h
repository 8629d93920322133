#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "qlora/adapters/adapter_file.h"
#include "qlora/adapters/inject.h"
#include "qlora/io/checkpoint.h"
#include "qlora/quant/quant_config.h"

namespace qlora::adapters {

inline constexpr const char* kAdapterConfigFile = "adapter_config.json";
inline constexpr const char* kAdapterWeightsFile = "adapter_model.safetensors";

/// The file of an adapter's tensors: AdapterHub calls it otherwise than PEFT.
const char* weights_file_name(const PeftConfig& config);
/// That of a folder, by its adapter_config.json.
std::filesystem::path adapter_weights_file(const std::filesystem::path& folder);
/// How another package than PEFT loads the folder that save_adapter wrote, as a sentence; empty of PEFT's.
std::string loading_note(const PeftConfig& config, const std::filesystem::path& folder);

// Metadata keys of the tensors' file: what the adapter was trained on.
inline constexpr const char* kBaseKey = "qlora.base";                  ///< fingerprint of the base's tensors
inline constexpr const char* kQuantizationKey = "qlora.quantization";  ///< JSON of the QuantConfig
inline constexpr const char* kTokenizerKey = "qlora.tokenizer";        ///< fingerprint of the tokenizer

/// PEFT's key of a tensor: "base_model.model." + module path + "." + suffix.
std::string peft_key(const std::string& module_path, const std::string& suffix);

/// Writes tensors as a safetensors file, atomically: fp32, sorted as the safetensors package sorts.
void save_tensors(const std::filesystem::path& file, const std::vector<nn::Parameter>& tensors,
                  const std::map<std::string, std::string>& metadata);

/// Writes adapter_config.json and the tensors as PEFT's save_pretrained does, of bottlenecks as AdapterHub's
/// save_adapter (metadata format "pt" plus `metadata`). `base_model` goes to base_model_name_or_path.
void save_adapter(const std::filesystem::path& folder, const Adaptation& adaptation,
                  const std::string& base_model, const std::map<std::string, std::string>& metadata);

/// CheckpointError with advice when the folder holds no PEFT adapter with safetensors.
void require_adapter_folder(const std::filesystem::path& folder);

/// The configuration of an adapter folder, as strict as for one that training goes on from.
PeftConfig load_adapter_config(const std::filesystem::path& folder);

/// Throws CheckpointError with all faults unless `file` holds exactly the `expected` tensors with their
/// shapes (their dtypes are not compared, but must be floating).
void check_adapter_tensors(const AdapterFile& file, const std::vector<io::TensorSpec>& expected);

/// In a checkpoint: the trained tensors themselves, where the adapter's file holds what is made of them.
void save_parameters(const std::filesystem::path& folder, const Adaptation& adaptation);
/// Of a checkpoint, which save_adapter and save_parameters wrote. Strict, as load_adapter_weights.
void load_parameters(const std::filesystem::path& folder, const models::DecoderSpec& model,
                     Adaptation& adaptation);

/// Copies an adapter's tensors into the parameters of `adaptation`. Strict both ways: missing, unexpected and
/// misshapen keys are reported together; those of other parts of the model's file than its decoder are passed
/// over with a log line. bf16 and fp16 tensors are widened.
void load_adapter_weights(const std::filesystem::path& folder, const models::DecoderSpec& model,
                          Adaptation& adaptation);

/// Metadata of an adapter's weights file.
std::map<std::string, std::string> adapter_metadata(const std::filesystem::path& folder);

/// What the base was quantized with when the adapter was trained; nothing when the adapter does not say.
std::optional<quant::QuantConfig> trained_quantization(const std::filesystem::path& folder);

/// CheckpointError when the adapter was trained on another base, by its fingerprint; one without passes, with
/// a log line, and so does a base that is the other's 4-bit form made by qlora-quantize.
void check_adapter_base(const std::filesystem::path& folder, const io::Checkpoint& base);

}  // namespace qlora::adapters
