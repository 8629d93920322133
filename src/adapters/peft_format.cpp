#include "qlora/adapters/peft_format.h"

#include <algorithm>
#include <set>
#include <sstream>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/io/safetensors.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora::adapters {
namespace {

std::string shape_text(at::IntArrayRef shape) {
    std::ostringstream out;
    out << shape;
    return out.str();
}

}  // namespace

std::string peft_key(const std::string& module_path, const std::string& suffix) {
    return "base_model.model." + module_path + "." + suffix;
}

void save_tensors(const std::filesystem::path& file, const std::vector<TrainableParameter>& tensors,
                  const std::map<std::string, std::string>& metadata) {
    std::vector<io::TensorSpec> specs;
    std::map<std::string, at::Tensor> by_key;
    for (const TrainableParameter& parameter : tensors) {
        const at::Tensor value = parameter.tensor.detach().contiguous();
        by_key[parameter.key] = value;
        specs.push_back({parameter.key, quant::dtype_of(value.scalar_type()), value.sizes().vec()});
    }
    specs = io::sorted_for_safetensors(std::move(specs));
    io::SafetensorsWriter writer(file, specs, metadata);
    for (const io::TensorSpec& spec : specs) writer.append(quant::bytes_of(by_key.at(spec.name)));
    writer.finish();
}

void save_adapter(const std::filesystem::path& folder, const Adaptation& adaptation, const std::string& base_model,
                  const std::map<std::string, std::string>& metadata) {
    std::filesystem::create_directories(folder);
    std::map<std::string, std::string> all = metadata;
    all["format"] = "pt";
    save_tensors(folder / kAdapterWeightsFile, adaptation.parameters, all);
    LoraConfig config = adaptation.config;
    config.base_model_name_or_path = base_model;
    write_file_atomically(folder / kAdapterConfigFile, adapter_config_text(config));
}

LoraConfig load_adapter_config(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / kAdapterConfigFile;
    if (!std::filesystem::exists(file)) {
        throw CheckpointError(folder.string() + ": has no " + kAdapterConfigFile + ", so it is not a PEFT adapter folder");
    }
    return read_adapter_config(file);
}

void load_adapter_weights(const std::filesystem::path& folder, Adaptation& adaptation) {
    const io::SafetensorsFile file(folder / kAdapterWeightsFile);
    FaultList faults;
    std::set<std::string> known;
    for (const TrainableParameter& parameter : adaptation.parameters) {
        known.insert(parameter.key);
        const io::TensorView* view = file.find(parameter.key);
        if (view == nullptr) {
            faults.add(parameter.key, "is missing (expected shape " + shape_text(parameter.tensor.sizes()) + ")");
        } else if (at::IntArrayRef(view->shape) != parameter.tensor.sizes()) {
            faults.add(parameter.key, "has shape " + shape_text(view->shape) + ", this base and configuration ask for " +
                                          shape_text(parameter.tensor.sizes()));
        }
    }
    for (const io::TensorView& view : file.tensors()) {
        if (!known.contains(view.name)) faults.add(view.name, "is not a parameter that this adapter_config.json trains");
    }
    faults.throw_if_any<CheckpointError>(file.path().string());
    const at::AutoGradMode no_gradients(false);
    for (TrainableParameter& parameter : adaptation.parameters) {
        const at::Tensor value = quant::tensor_from_view(file.at(parameter.key));
        if (!at::isFloatingType(value.scalar_type()) || !value.isfinite().all().item<bool>()) {
            faults.add(parameter.key, "holds a value that is not a finite number");
            continue;
        }
        parameter.tensor.copy_(value);
    }
    faults.throw_if_any<CheckpointError>(file.path().string());
}

std::map<std::string, std::string> adapter_metadata(const std::filesystem::path& folder) {
    return io::SafetensorsFile(folder / kAdapterWeightsFile).metadata();
}

}  // namespace qlora::adapters
