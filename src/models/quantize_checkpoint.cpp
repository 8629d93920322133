#include "qlora/models/quantize_checkpoint.h"

#include <ATen/core/Tensor.h>
#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "qlora/core/atomic_file.h"
#include "qlora/core/atomic_folder.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/stopped.h"
#include "qlora/kernels/codebook.h"
#include "qlora/kernels/dynamic_code.h"
#include "qlora/models/base_loader.h"
#include "qlora/models/checkpoint_names.h"
#include "qlora/models/folder_writer.h"
#include "qlora/quant/bnb_specs.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora::models {
namespace {

namespace fs = std::filesystem;

/// Bytes of a dense tensor checked and copied at a time.
constexpr std::size_t kCopyBytes = 1 << 20;

/// The scales of a matrix's scales: small, and known before its file is begun.
struct Nested {
    at::Tensor absmax;
    float offset = 0.0F;
};

template <class T>
std::span<const std::byte> bytes_of_array(const T& values) {
    return std::as_bytes(std::span(values));
}

/// What is read of the model before anything is written.
struct Model {
    explicit Model(const QuantizeRequest& request)
        : config(load_decoder_spec(request.model)), checkpoint(request.model), names(checkpoint, config) {
        log_passed_over(config);
        if (config.stored_in_4bit) {
            throw ConfigError("--model: " + request.model.string() +
                              " is stored in 4 bits already; give the original model");
        }
        check_base(checkpoint, config);
        matrices = quantizable_weights(config);
    }

    DecoderSpec config;
    io::Checkpoint checkpoint;
    CheckpointNames names;
    // By the parameters' names:
    std::set<std::string> matrices;  ///< the weights to quantize
    std::map<std::string, Nested> nested;
    std::string fingerprint;
};

void stop_if_asked(const QuantizeRequest& request) {
    if (request.stop_requested && request.stop_requested()) throw Stopped();
}

/// The first pass.
void read_scales(Model& model, const QuantizeRequest& request) {
    model.fingerprint = model.checkpoint.fingerprint([&](const io::TensorView& view) {
        stop_if_asked(request);
        const std::string weight = model.names.parameter(view.name);
        if (!request.config.bnb_4bit_use_double_quant || !model.matrices.contains(weight)) return;
        const quant::QuantizedTensor packed = quant::quantize(view, request.config);
        model.nested[weight] = {packed.nested_absmax, packed.nested_offset};
    });
}

/// Writes the tensors of a model one by one. The parts of a matrix that stand together in a file are taken
/// from one quantization.
class Writer {
  public:
    Writer(const Model& model, const QuantizeRequest& request) : model_(model), request_(request) {
        for (const io::SafetensorsFile& file : model.checkpoint.shards()) plan(file);
    }

    const std::vector<ShardSpecs>& shards() const { return shards_; }

    void write(const ShardSpecs& shard, const fs::path& folder) {
        io::SafetensorsWriter writer(folder / shard.file, shard.tensors,
                                     {{"format", "pt"}, {kOriginalKey, model_.fingerprint}});
        for (const io::TensorSpec& spec : shard.tensors) {
            stop_if_asked(request_);
            write_tensor(spec.name, writer);
        }
        packed_name_.clear();
        packed_ = {};
        writer.finish();
        spdlog::info("wrote {}: {} tensors", shard.file, shard.tensors.size());
    }

  private:
    /// A tensor of a matrix in 4 bits: which one, and of which weight.
    struct Part {
        std::string weight;
        std::string suffix;  ///< empty: the codes
    };

    void plan(const io::SafetensorsFile& file) {
        ShardSpecs shard{.file = file.path().filename().string(), .tensors = {}};
        for (const io::TensorView& view : file.tensors()) {
            const std::string name = model_.names.parameter(view.name);
            if (!model_.matrices.contains(name)) {
                shard.tensors.push_back({name, view.dtype, view.shape});
                continue;
            }
            for (io::TensorSpec& spec :
                 quant::bnb_specs(name, view.shape[0], view.shape[1], request_.config, state_text(name))) {
                parts_[spec.name] = {name, spec.name.substr(name.size())};
                shard.tensors.push_back(std::move(spec));
            }
        }
        shard.tensors = io::sorted_for_safetensors(std::move(shard.tensors));
        shards_.push_back(std::move(shard));
    }

    std::string state_text(const std::string& weight) const {
        const auto nested = model_.nested.find(weight);
        const std::vector<std::int64_t>& shape = tensor_of(weight).shape;
        return quant::bnb_state_text(shape[0], shape[1], request_.config,
                                     nested == model_.nested.end() ? 0.0F : nested->second.offset);
    }

    void write_tensor(const std::string& name, io::SafetensorsWriter& writer) {
        const auto found = parts_.find(name);
        if (found == parts_.end()) {
            copy_dense(name, writer);
            return;
        }
        const Part& part = found->second;
        if (part.suffix.empty()) {
            writer.append(quant::bytes_of(packed(part.weight).codes));
        } else if (part.suffix == quant::kBnbAbsmax) {
            writer.append(quant::bytes_of(packed(part.weight).absmax));
        } else if (part.suffix == quant::kBnbNestedAbsmax) {
            writer.append(quant::bytes_of(model_.nested.at(part.weight).absmax));
        } else if (part.suffix == quant::kBnbNestedMap) {
            writer.append(bytes_of_array(kernels::kSignedDynamicMap.value));
        } else if (part.suffix == quant::kBnbMap) {
            float values[kernels::kNf4Codes];
            for (int code = 0; code < kernels::kNf4Codes; ++code) values[code] = kernels::decode_nf4(code);
            writer.append(bytes_of_array(values));
        } else {
            writer.append(bytes_of_array(state_text(part.weight)));
        }
    }

    const quant::QuantizedTensor& packed(const std::string& weight) {
        if (packed_name_ != weight) {
            packed_ = {};  // before the next takes memory
            packed_ = quant::quantize(tensor_of(weight), request_.config);
            packed_name_ = weight;
            model_.checkpoint.release(tensor_of(weight).name);
        }
        return packed_;
    }

    const io::TensorView& tensor_of(const std::string& parameter) const {
        return model_.checkpoint.at(model_.names.in_file(parameter));
    }

    void copy_dense(const std::string& parameter, io::SafetensorsWriter& writer) const {
        const io::TensorView& view = tensor_of(parameter);
        const std::size_t width = io::size_of(view.dtype);
        for (std::size_t first = 0; first < view.bytes.size(); first += kCopyBytes) {
            const auto bytes = view.bytes.subspan(first, std::min(kCopyBytes, view.bytes.size() - first));
            const io::TensorView piece{
                view.name, view.dtype, {static_cast<std::int64_t>(bytes.size() / width)}, bytes};
            if (!model_.config.ignores(parameter) && !quant::all_finite(piece)) {
                throw CheckpointError("tensor " + view.name +
                                      " holds a value that is not finite; the checkpoint is damaged");
            }
            writer.append(bytes);
        }
        model_.checkpoint.release(view.name);
    }

    const Model& model_;
    const QuantizeRequest& request_;
    std::vector<ShardSpecs> shards_;
    std::map<std::string, Part> parts_;  ///< by the tensor's name
    std::string packed_name_;
    quant::QuantizedTensor packed_;
};

void write_config(const QuantizeRequest& request, const fs::path& folder) {
    Json config = read_json_file(request.model / "config.json");
    config["quantization_config"] = quant::bnb_config_json(request.config);
    write_file_atomically(folder / "config.json", config.dump(2) + "\n");
}

}  // namespace

QuantizeReport quantize_checkpoint(const QuantizeRequest& request) {
    if (!request.config.load_in_4bit) {
        throw ConfigError("quantization.load_in_4bit: false leaves nothing to do; leave it out");
    }
    QuantizeReport report{.output = new_output_folder(request.output)};
    remove_leftovers_of(report.output);
    Model model(request);
    read_scales(model, request);
    Writer writer(model, request);
    report.matrices = static_cast<std::int64_t>(model.matrices.size());
    report.bytes_after = byte_count(writer.shards());
    for (const std::string& name : model.checkpoint.names())
        report.bytes_before += static_cast<std::int64_t>(model.checkpoint.at(name).bytes.size());
    require_space(report.output, report.bytes_after, request.companions);

    write_folder_atomically(report.output, [&](const fs::path& folder) {
        for (const ShardSpecs& shard : writer.shards()) {
            writer.write(shard, folder);
            report.tensors += static_cast<std::int64_t>(shard.tensors.size());
        }
        write_shard_index(request.model, writer.shards(), std::nullopt, folder);
        write_config(request, folder);
        write_companions(request.companions, folder);
    });
    return report;
}

}  // namespace qlora::models
