#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "qlora/io/safetensors.h"

namespace qlora::adapters {

/// The tensors of an adapter folder under the keys that PEFT's save_pretrained gives them. Files that hold a
/// model's own state dict say the same with the adapter's name inside (`lora_A.default.weight`,
/// `modules_to_save.default.weight`), and those of a decoder without a head leave out `model.`.
class AdapterFile {
  public:
    /// CheckpointError when the file cannot be read, or names one tensor twice.
    explicit AdapterFile(const std::filesystem::path& folder);

    const io::SafetensorsFile& file() const { return file_; }
    const std::filesystem::path& path() const { return file_.path(); }

    /// nullptr when absent.
    const io::TensorView* find(const std::string& key) const;
    const io::TensorView& at(const std::string& key) const;
    /// By key; a view's own name is the file's.
    const std::map<std::string, const io::TensorView*>& tensors() const { return tensors_; }

  private:
    io::SafetensorsFile file_;
    std::map<std::string, const io::TensorView*> tensors_;
};

/// The module that a key of a LoRA matrix belongs to, "model.layers.0.self_attn.q_proj"; empty for other
/// keys.
std::string lora_module_of(const std::string& key);

}  // namespace qlora::adapters
