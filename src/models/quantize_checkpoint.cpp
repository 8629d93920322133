#include "qlora/models/quantize_checkpoint.h"

#include <ATen/core/Tensor.h>
#include <algorithm>
#include <map>
#include <string>
#include <vector>

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
#include "qlora/quant/matrix_in_rows.h"
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
        log_passed_over(checkpoint, config);
        if (config.stored_in_4bit) {
            throw ConfigError("--model: " + request.model.string() +
                              " is stored in 4 bits already; give the original model");
        }
        check_base(checkpoint, config);
        matrices = quantizable_weights(config);
        // transformers with bitsandbytes could not load experts in 4 bits.
        std::erase_if(matrices,
                      [](const auto& matrix) { return matrix.second->kind == spec::MatrixKind::kExpert; });
    }

    DecoderSpec config;
    io::Checkpoint checkpoint;
    CheckpointNames names;
    // By the parameters' names:
    std::map<std::string, const spec::Linear*> matrices;  ///< the weights to quantize
    std::map<std::string, Nested> nested;
    std::string fingerprint;
};

void stop_if_asked(const QuantizeRequest& request) {
    if (request.stop_requested && request.stop_requested()) throw Stopped();
}

quant::QuantizedTensor packed_form(const io::TensorView& view, const spec::Linear& linear,
                                   const quant::QuantConfig& config) {
    return quant::quantize(quant::MatrixInRows(view, linear.stored_in_columns).view(), config);
}

/// The first pass.
void read_scales(Model& model, const QuantizeRequest& request) {
    model.fingerprint = model.checkpoint.fingerprint([&](const io::TensorView& view) {
        stop_if_asked(request);
        const std::string weight = model.names.parameter(view.name);
        if (!request.config.bnb_4bit_use_double_quant || !model.matrices.contains(weight)) return;
        const quant::QuantizedTensor packed = packed_form(view, *model.matrices.at(weight), request.config);
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
        packed_source_ = nullptr;
        packed_ = {};
        writer.finish();
        spdlog::info("wrote {}: {} tensors", shard.file, shard.tensors.size());
    }

  private:
    /// A tensor of a matrix in 4 bits: which one, and of which weight.
    struct Part {
        const spec::Linear* linear;
        const io::TensorView* source;
        std::string suffix;  ///< empty: the codes
    };

    void plan(const io::SafetensorsFile& file) {
        ShardSpecs shard{.file = file.path().filename().string(), .tensors = {}};
        for (const io::TensorView& view : file.tensors()) {
            const bool is_foreign = model_.names.is_foreign(view.name);
            const std::string parameter = is_foreign ? view.name : model_.names.parameter(view.name);
            const std::string name = is_foreign ? view.name : model_.names.written(parameter);
            const auto matrix = model_.matrices.find(parameter);
            if (is_foreign || matrix == model_.matrices.end()) {
                shard.tensors.push_back({name, view.dtype, view.shape});
                sources_[name] = &view;
                continue;
            }
            const spec::Linear& linear = *matrix->second;
            for (io::TensorSpec& spec :
                 quant::bnb_specs(name, linear.out, linear.in, request_.config, state_text(linear))) {
                parts_[spec.name] = {&linear, &view, spec.name.substr(name.size())};
                shard.tensors.push_back(std::move(spec));
            }
        }
        shard.tensors = io::sorted_for_safetensors(std::move(shard.tensors));
        shards_.push_back(std::move(shard));
    }

    std::string state_text(const spec::Linear& linear) const {
        const auto nested = model_.nested.find(linear.weight());
        return quant::bnb_state_text(linear.out, linear.in, request_.config,
                                     nested == model_.nested.end() ? 0.0F : nested->second.offset);
    }

    void write_tensor(const std::string& name, io::SafetensorsWriter& writer) {
        const auto found = parts_.find(name);
        if (found == parts_.end()) {
            copy_dense(*sources_.at(name), writer);
            return;
        }
        const Part& part = found->second;
        if (part.suffix.empty()) {
            writer.append(quant::bytes_of(packed(part).codes));
        } else if (part.suffix == quant::kBnbAbsmax) {
            writer.append(quant::bytes_of(packed(part).absmax));
        } else if (part.suffix == quant::kBnbNestedAbsmax) {
            writer.append(quant::bytes_of(model_.nested.at(part.linear->weight()).absmax));
        } else if (part.suffix == quant::kBnbNestedMap) {
            writer.append(bytes_of_array(kernels::kSignedDynamicMap.value));
        } else if (part.suffix == quant::kBnbMap) {
            float values[kernels::kNf4Codes];
            for (int code = 0; code < kernels::kNf4Codes; ++code) values[code] = kernels::decode_nf4(code);
            writer.append(bytes_of_array(values));
        } else {
            writer.append(bytes_of_array(state_text(*part.linear)));
        }
    }

    const quant::QuantizedTensor& packed(const Part& part) {
        if (packed_source_ != part.source) {
            packed_ = {};  // before the next takes memory
            packed_ = packed_form(*part.source, *part.linear, request_.config);
            packed_source_ = part.source;
            model_.checkpoint.release(part.source->name);
        }
        return packed_;
    }

    void copy_dense(const io::TensorView& view, io::SafetensorsWriter& writer) const {
        const std::size_t width = io::size_of(view.dtype);
        const bool is_parameter =
            !model_.names.is_foreign(view.name) && !model_.config.ignores(model_.names.parameter(view.name));
        for (std::size_t first = 0; first < view.bytes.size(); first += kCopyBytes) {
            const auto bytes = view.bytes.subspan(first, std::min(kCopyBytes, view.bytes.size() - first));
            const io::TensorView piece{
                view.name, view.dtype, {static_cast<std::int64_t>(bytes.size() / width)}, bytes};
            if (is_parameter && !quant::all_finite(piece)) {
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
    // By the written tensor's name:
    std::map<std::string, Part> parts_;
    std::map<std::string, const io::TensorView*> sources_;  ///< of what is copied
    const io::TensorView* packed_source_ = nullptr;
    quant::QuantizedTensor packed_;
};

/// What transformers would quantize by default although it is dense here: linears of foreign parts. A list
/// takes the place of transformers' own, which has the head.
std::vector<std::string> modules_left_dense(const DecoderSpec& config) {
    if (config.foreign.empty()) return {};
    std::vector<std::string> out = {config.head.path};
    for (const std::string& begin : config.foreign) {
        out.push_back(begin.ends_with('.') ? begin.substr(0, begin.size() - 1) : begin);
    }
    return out;
}

void write_config(const QuantizeRequest& request, const DecoderSpec& decoder, const fs::path& folder) {
    Json config = read_json_file(request.model / "config.json");
    Json& section = config["quantization_config"] = quant::bnb_config_json(request.config);
    if (const std::vector<std::string> dense = modules_left_dense(decoder); !dense.empty())
        section["llm_int8_skip_modules"] = dense;
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
        write_config(request, model.config, folder);
        write_companions(request.companions, folder);
    });
    return report;
}

}  // namespace qlora::models
