#include "qlora/adapters/peft_format.h"

#include <ATen/core/grad_mode.h>
#include <algorithm>
#include <set>

#include "adapter_hub.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/io/safetensors.h"
#include "qlora/io/shape_text.h"
#include "qlora/models/quantize_checkpoint.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora::adapters {
namespace {

constexpr const char* kPickledWeightsFile = "adapter_model.bin";
/// In a checkpoint, where what trains is not what the adapter's file holds.
constexpr const char* kParametersFile = "parameters.safetensors";

std::vector<io::TensorSpec> specs_of(const std::vector<nn::Parameter>& tensors) {
    std::vector<io::TensorSpec> out;
    for (const nn::Parameter& tensor : tensors)
        out.push_back({tensor.key, io::DType::kF32, tensor.tensor.sizes().vec()});
    return out;
}

/// Copies what view_of(key) gives into each tensor.
template <class ViewOf>
void copy_tensors(const std::vector<nn::Parameter>& tensors, const std::filesystem::path& file,
                  const ViewOf& view_of) {
    FaultList faults;
    const at::AutoGradMode no_gradients(false);
    for (const nn::Parameter& tensor : tensors) {
        const at::Tensor value = quant::tensor_from_view(view_of(tensor.key));
        if (!value.isfinite().all().item<bool>()) {
            faults.add(tensor.key, "holds a value that is not a finite number");
            continue;
        }
        at::Tensor to = tensor.tensor;
        to.copy_(value);
    }
    faults.throw_if_any<CheckpointError>(file.string());
}

/// Of tensors that share memory the file must have said the same.
void check_shared(const std::vector<nn::Parameter>& tensors, const AdapterFile& file) {
    FaultList faults;
    for (const nn::Parameter& tensor : tensors) {
        const at::Tensor value = quant::tensor_from_view(file.at(tensor.key)).to(at::kFloat);
        if (!tensor.tensor.detach().cpu().equal(value))
            faults.add(tensor.key,
                       "differs from the tensor that it is one with (ensure_weight_tying); set "
                       "ensure_weight_tying to false in its adapter_config.json to train both apart");
    }
    faults.throw_if_any<CheckpointError>(file.path().string());
}

}  // namespace

const char* weights_file_name(const PeftConfig& config) {
    return std::holds_alternative<BottleneckConfig>(config) ? adapter_hub::kWeightsFile : kAdapterWeightsFile;
}

std::filesystem::path adapter_weights_file(const std::filesystem::path& folder) {
    return folder / (adapter_hub::is_folder(folder) ? adapter_hub::kWeightsFile : kAdapterWeightsFile);
}

std::string loading_note(const PeftConfig& config, const std::filesystem::path& folder) {
    if (!std::holds_alternative<BottleneckConfig>(config)) return {};
    return fmt::format(
        "AdapterHub's adapters loads it as \"{}\": adapters.init(model); model.load_adapter(\"{}\", "
        "use_safetensors=True, set_active=True)",
        adapter_hub::kName, folder.string());
}

std::string peft_key(const std::string& module_path, const std::string& suffix) {
    return "base_model.model." + module_path + "." + suffix;
}

void save_tensors(const std::filesystem::path& file, const std::vector<nn::Parameter>& tensors,
                  const std::map<std::string, std::string>& metadata) {
    std::vector<io::TensorSpec> specs;
    std::map<std::string, at::Tensor> by_key;
    for (const nn::Parameter& parameter : tensors) {
        const at::Tensor value = parameter.tensor.detach().cpu().contiguous();
        by_key[parameter.key] = value;
        specs.push_back({parameter.key, quant::dtype_of(value.scalar_type()), value.sizes().vec()});
    }
    specs = io::sorted_for_safetensors(std::move(specs));
    io::SafetensorsWriter writer(file, specs, metadata);
    for (const io::TensorSpec& spec : specs) writer.append(quant::bytes_of(by_key.at(spec.name)));
    writer.finish();
}

void save_adapter(const std::filesystem::path& folder, const Adaptation& adaptation,
                  const std::string& base_model, const std::map<std::string, std::string>& metadata) {
    std::filesystem::create_directories(folder);
    std::map<std::string, std::string> all = metadata;
    all["format"] = "pt";
    PeftConfig config = adaptation.plan.config;
    save_tensors(folder / weights_file_name(config), adaptation.adapter->saved(), all);
    name_base(config, base_model);
    write_file_atomically(folder / kAdapterConfigFile, adapter_config_text(config));
}

void require_adapter_folder(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / kAdapterConfigFile;
    if (!std::filesystem::exists(file)) {
        throw CheckpointError(folder.string() + ": has no " + kAdapterConfigFile +
                              ", so it is not a PEFT adapter folder");
    }
    const bool is_hub = adapter_hub::is_folder(folder);
    const std::filesystem::path pickled =
        folder / (is_hub ? adapter_hub::kPickledWeightsFile : kPickledWeightsFile);
    if (!std::filesystem::exists(adapter_weights_file(folder)) && std::filesystem::exists(pickled)) {
        throw CheckpointError(pickled.string() +
                              ": is a pickle file, which can run code when it is read; load the adapter once "
                              "with " +
                              (is_hub ? "AdapterHub" : "PEFT") + " where you trust it and save it with " +
                              (is_hub ? "use_safetensors=True" : "safe_serialization=True"));
    }
}

PeftConfig load_adapter_config(const std::filesystem::path& folder) {
    require_adapter_folder(folder);
    return read_adapter_config(folder / kAdapterConfigFile);
}

void check_adapter_tensors(const AdapterFile& file, const std::vector<io::TensorSpec>& expected) {
    FaultList faults;
    std::set<std::string> known;
    for (const io::TensorSpec& spec : expected) {
        known.insert(spec.name);
        const io::TensorView* view = file.find(spec.name);
        if (view == nullptr) {
            faults.add(spec.name, "is missing (expected shape " + io::shape_text(spec.shape) + ")");
            continue;
        }
        if (view->shape != spec.shape) {
            faults.add(spec.name, "has shape " + io::shape_text(view->shape) +
                                      ", this base and configuration ask for " + io::shape_text(spec.shape));
        }
        if (view->dtype != io::DType::kF32 && view->dtype != io::DType::kF16 &&
            view->dtype != io::DType::kBF16) {
            faults.add(spec.name, "has dtype " + std::string(io::name_of(view->dtype)) +
                                      "; F32, F16 and BF16 are supported");
        }
    }
    for (const auto& [key, view] : file.tensors()) {
        if (known.contains(key)) continue;
        const io::TensorSpec* of_base = file.carried(key);
        if (of_base == nullptr) {
            faults.add(view->name, "is not a parameter that this adapter_config.json trains");
        } else if (view->shape != of_base->shape) {
            faults.add(view->name, "has shape " + io::shape_text(view->shape) + ", " + of_base->name +
                                       " of this base " + io::shape_text(of_base->shape) +
                                       ": the vocabulary was resized before training; give a base that was "
                                       "resized so (resize_token_embeddings in transformers)");
        }
    }
    faults.throw_if_any<CheckpointError>(file.path().string());
}

void load_adapter_weights(const std::filesystem::path& folder, const models::DecoderSpec& model,
                          Adaptation& adaptation) {
    const AdapterFile file(folder, model);
    file.log_foreign();
    if (!adaptation.adapter->is_source()) {
        throw CheckpointError(folder.string() +
                              ": holds the tokens that a network made, not the network, so training cannot "
                              "go on from it; start a "
                              "new run, or go on with a checkpoint of its own run (--resume)");
    }
    const std::vector<nn::Parameter> tensors = adaptation.adapter->saved();
    check_adapter_tensors(file, specs_of(tensors));
    copy_tensors(tensors, file.path(),
                 [&](const std::string& key) -> const io::TensorView& { return file.at(key); });
    if (tensors.size() > adaptation.parameters.size()) check_shared(tensors, file);
}

void save_parameters(const std::filesystem::path& folder, const Adaptation& adaptation) {
    if (adaptation.adapter->is_source()) return;
    save_tensors(folder / kParametersFile, adaptation.parameters, {});
}

void load_parameters(const std::filesystem::path& folder, const models::DecoderSpec& model,
                     Adaptation& adaptation) {
    if (adaptation.adapter->is_source()) return load_adapter_weights(folder, model, adaptation);
    const io::SafetensorsFile file(folder / kParametersFile);
    FaultList faults;
    for (const nn::Parameter& parameter : adaptation.parameters) {
        const io::TensorView* view = file.find(parameter.key);
        if (view == nullptr || view->shape != parameter.tensor.sizes().vec() ||
            view->dtype != io::DType::kF32)
            faults.add(parameter.key, "is missing, or not what this run trains");
    }
    faults.throw_if_any<CheckpointError>(file.path().string());
    copy_tensors(adaptation.parameters, file.path(),
                 [&](const std::string& key) -> const io::TensorView& { return *file.find(key); });
}

std::map<std::string, std::string> adapter_metadata(const std::filesystem::path& folder) {
    return io::SafetensorsFile(adapter_weights_file(folder)).metadata();
}

std::optional<quant::QuantConfig> trained_quantization(const std::filesystem::path& folder) {
    const auto metadata = adapter_metadata(folder);
    const auto found = metadata.find(kQuantizationKey);
    if (found == metadata.end()) return std::nullopt;
    const std::string place = adapter_weights_file(folder).string() + ": metadata " + kQuantizationKey;
    quant::QuantConfig config;
    ReadState state;
    try {
        read_fields(parse_json(found->second, place), "", config, state);
    } catch (const ConfigError& error) {
        throw CheckpointError(error.what());
    }
    state.faults.throw_if_any<CheckpointError>(place);
    return config;
}

void check_adapter_base(const std::filesystem::path& folder, const io::Checkpoint& base) {
    const auto metadata = adapter_metadata(folder);
    const auto trained_on = metadata.find(kBaseKey);
    if (trained_on == metadata.end()) {
        spdlog::info(
            "{} does not say which base it was trained on (made by another tool); shapes are checked",
            folder.string());
        return;
    }
    const std::string fingerprint = base.fingerprint();
    if (trained_on->second == fingerprint) return;
    if (base.metadata(models::kOriginalKey) == trained_on->second) {
        spdlog::info("{} is the 4-bit form of the base that {} was trained on", base.folder().string(),
                     folder.string());
        return;
    }
    const auto original = metadata.find(models::kOriginalKey);
    if (original != metadata.end() && original->second == fingerprint) {
        spdlog::info("{} was trained on the 4-bit form of {}", folder.string(), base.folder().string());
        return;
    }
    throw CheckpointError(folder.string() + ": was trained on another base than " + base.folder().string() +
                          " (fingerprint " + trained_on->second + "); give the base it was trained on");
}

}  // namespace qlora::adapters
