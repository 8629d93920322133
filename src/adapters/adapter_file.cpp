#include "qlora/adapters/adapter_file.h"

#include <string_view>

#include "adapter_hub.h"
#include "embedding_lora.h"
#include "qlora/adapters/lora.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/models/checkpoint_names.h"

namespace qlora::adapters {
namespace {

const std::string kKeyPrefix = "base_model.model.";

void cut(std::string& key, std::string_view part, std::string_view kept) {
    const std::size_t found = key.find(part);
    if (found != std::string::npos) key.replace(found, part.size(), kept);
}

/// PEFT's key without what another tool may have added to it.
std::string plain_key(std::string key) {
    cut(key, ".lora_A.default.", ".lora_A.");
    cut(key, ".lora_B.default.", ".lora_B.");
    cut(key, ".lora_embedding_A.default", ".lora_embedding_A");
    cut(key, ".lora_embedding_B.default", ".lora_embedding_B");
    cut(key, ".modules_to_save.default.", ".");
    return key;
}

/// The keys under which a file may hold the base's own embedding and head.
std::map<std::string, io::TensorSpec> carried_keys(const models::DecoderSpec& model) {
    std::map<std::string, io::TensorSpec> out;
    const auto add = [&](const std::string& module, const char* part, std::vector<std::int64_t> shape) {
        for (const char* wrapper : {".", ".base_layer."})
            out[kKeyPrefix + module + wrapper + part] = {module + "." + part, io::DType::kF32, shape};
    };
    add(model.embedding, "weight", {model.vocab_size, model.hidden_size});
    add(model.head.path, "weight", {model.head.out, model.head.in});
    if (model.head.bias) add(model.head.path, "bias", {model.head.out});
    return out;
}

io::SafetensorsFile weights_of(const std::filesystem::path& folder) {
    require_adapter_folder(folder);
    return io::SafetensorsFile(adapter_weights_file(folder));
}

/// What AdapterHub's file calls the adapter; none of PEFT's.
std::optional<std::string> name_in(const std::filesystem::path& folder) {
    if (!adapter_hub::is_folder(folder)) return std::nullopt;
    const Json name = read_json_file(folder / kAdapterConfigFile).value("name", Json());
    return name.is_string() ? name.get<std::string>() : std::string();
}

}  // namespace

AdapterFile::AdapterFile(const std::filesystem::path& folder, const models::DecoderSpec& model)
    : file_(weights_of(folder)), carried_(carried_keys(model)) {
    FaultList faults;
    const std::optional<std::string> called = name_in(folder);
    const std::string prefix = called ? "" : kKeyPrefix;
    for (const io::TensorView& view : file_.tensors()) {
        std::string key = called ? adapter_hub::our_key(view.name, *called) : plain_key(view.name);
        if (key.starts_with(prefix)) {
            const std::string name = key.substr(prefix.size());
            if (models::is_foreign(model, name)) {
                foreign_.push_back(&view);
                continue;
            }
            key = prefix + models::parameter_named(model, name);
        }
        const auto [place, is_new] = tensors_.emplace(key, &view);
        if (!is_new) faults.add(view.name, "is the same tensor as " + place->second->name);
    }
    faults.throw_if_any<CheckpointError>(file_.path().string());
}

void AdapterFile::log_foreign() const {
    if (foreign_.empty()) return;
    spdlog::info("{}: {} tensors of other parts than the language model are passed over ({} is the first)",
                 path().string(), foreign_.size(), foreign_.front()->name);
}

const io::TensorView* AdapterFile::find(const std::string& key) const {
    const auto found = tensors_.find(key);
    return found == tensors_.end() ? nullptr : found->second;
}

const io::TensorSpec* AdapterFile::carried(const std::string& key) const {
    const auto found = carried_.find(key);
    return found == carried_.end() ? nullptr : &found->second;
}

const io::TensorView& AdapterFile::at(const std::string& key) const {
    const io::TensorView* view = find(key);
    if (view == nullptr) throw CheckpointError(path().string() + ": has no tensor " + key);
    return *view;
}

std::string lora_module_of(const std::string& key) {
    if (!key.starts_with(kKeyPrefix)) return "";
    for (const char* suffix : {LoraLayer::kA, LoraLayer::kB, kEmbeddingA, kEmbeddingB}) {
        const std::string end = std::string(".") + suffix;
        if (key.ends_with(end))
            return key.substr(kKeyPrefix.size(), key.size() - kKeyPrefix.size() - end.size());
    }
    return "";
}

}  // namespace qlora::adapters
