#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "qlora/io/safetensors.h"
#include "qlora/models/decoder_spec.h"

namespace qlora::adapters {

/// The tensors of an adapter folder under the keys that PEFT's save_pretrained gives them. Files that hold a
/// model's own state dict say the same with the adapter's name inside (`lora_A.default.weight`,
/// `modules_to_save.default.weight`), and modules may have any name that a checkpoint may give them
/// (models::parameter_named). Of AdapterHub's folders likewise, under the keys of an adapter of ours.
class AdapterFile {
  public:
    /// CheckpointError when the file cannot be read, or names one tensor twice.
    AdapterFile(const std::filesystem::path& folder, const models::DecoderSpec& model);

    const io::SafetensorsFile& file() const { return file_; }
    const std::filesystem::path& path() const { return file_.path(); }

    /// nullptr when absent.
    const io::TensorView* find(const std::string& key) const;
    const io::TensorView& at(const std::string& key) const;
    /// By key; a view's own name is the file's.
    const std::map<std::string, const io::TensorView*>& tensors() const { return tensors_; }
    /// Tensors of modules that are no part of the decoder (DecoderSpec::foreign): not among `tensors`.
    const std::vector<const io::TensorView*>& foreign() const { return foreign_; }
    /// What a key stands for in the base, with its shape there, where it may be one of its tables
    /// (carried_tables.h); null for other keys.
    const io::TensorSpec* carried(const std::string& key) const;
    /// A log line if there are any foreign ones.
    void log_foreign() const;

  private:
    io::SafetensorsFile file_;
    std::map<std::string, const io::TensorView*> tensors_;
    std::vector<const io::TensorView*> foreign_;
    std::map<std::string, io::TensorSpec> carried_;
};

/// The module that a key of a LoRA matrix belongs to, "model.layers.0.self_attn.q_proj"; empty for other
/// keys.
std::string lora_module_of(const std::string& key);

}  // namespace qlora::adapters
