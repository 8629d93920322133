#include "qlora/models/base_loader.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <set>

#include "qlora/core/error.h"
#include "qlora/io/shape_text.h"
#include "qlora/models/checkpoint_names.h"
#include "qlora/quant/matrix_in_rows.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora::models {
namespace {

/// A parameter the architecture needs: its name and shape on disk, and what to do with the tensor.
struct Slot {
    std::string name;
    std::vector<std::int64_t> shape;
    std::function<void(const io::TensorView&)> place;
    nn::Linear* linear = nullptr;  ///< whose weight it is
    bool in_4bit = false;          ///< so the checkpoint holds it
};

/// A dense parameter; one that is not finite is refused like a damaged quantized one.
at::Tensor load_dense(const io::TensorView& view) {
    if (!quant::all_finite(view)) {
        throw CheckpointError("tensor " + view.name +
                              " holds a value that is not finite; the checkpoint is damaged");
    }
    return quant::tensor_from_view(view);
}

/// As the checkpoint holds the weight where it is dense.
std::vector<std::int64_t> shape_on_disk(const spec::Linear& linear) {
    if (linear.stored_in_columns) return {linear.in, linear.out};
    return {linear.out, linear.in};
}

/// Whether a weight that is dense on disk is quantized.
bool is_quantized(const spec::Linear& linear, const DecoderSpec& config, const LoadOptions& options) {
    const bool stays_dense =
        linear.kind == spec::MatrixKind::kRouter || (options.stays_dense && options.stays_dense(linear.path));
    if (!options.quantization.load_in_4bit || stays_dense) return false;
    // In a checkpoint stored in 4 bits, a linear that is dense was left so on purpose; not so an expert,
    // which bitsandbytes cannot quantize.
    return !config.stored_in_4bit || linear.kind == spec::MatrixKind::kExpert;
}

void add_linear(nn::Linear& linear, const spec::Linear& described, const DecoderSpec& config,
                const LoadOptions& options, std::vector<Slot>& slots) {
    const bool quantized = is_quantized(described, config, options);
    const bool in_4bit = config.stored_in_4bit && described.kind == spec::MatrixKind::kLinear &&
                         !config.stored_in_4bit->skips(described.path);
    slots.push_back(
        {described.weight(), shape_on_disk(described),
         [&linear, quantized, in_columns = described.stored_in_columns,
          &options](const io::TensorView& view) {
             const quant::MatrixInRows matrix(view, in_columns);
             const at::ScalarType compute = options.compute_dtype;
             linear.set_weight(
                 quantized ? nn::Weight(quant::quantize(matrix.view(), options.quantization, options.device),
                                        compute)
                           : nn::Weight(load_dense(matrix.view()).to(options.device), compute));
         },
         &linear, in_4bit});
    if (!described.bias) return;
    slots.push_back({described.path + ".bias", {described.out}, [&linear](const io::TensorView& view) {
                         linear.set_bias(load_dense(view));
                     }});
}

void add_norm(nn::Norm& norm, const spec::Norm& described, at::ScalarType compute, std::vector<Slot>& slots) {
    if (described.apart) {
        for (std::int64_t head = 0; head < described.heads; ++head) {
            slots.push_back({described.path + ".norms." + std::to_string(head) + ".weight",
                             {described.size / described.heads},
                             [&norm, shape = described.shape(), head, compute](const io::TensorView& view) {
                                 norm.set_weight_of_head(head, shape, load_dense(view), compute);
                             }});
        }
        return;
    }
    slots.push_back(
        {described.path + ".weight", described.shape(),
         [&norm, compute](const io::TensorView& view) { norm.set_weight(load_dense(view), compute); }});
    if (!described.bias) return;
    slots.push_back(
        {described.path + ".bias", {described.size}, [&norm, compute](const io::TensorView& view) {
             norm.set_bias(load_dense(view), compute);
         }});
}

std::vector<Slot> slots_of(CausalLM& model, const LoadOptions& options) {
    const DecoderSpec& config = model.spec();
    const at::ScalarType compute = options.compute_dtype;
    const at::Device device = options.device;
    std::vector<Slot> slots;
    slots.push_back({config.embedding_weight(),
                     {config.vocab_size, config.hidden_size},
                     [&model, compute, device](const io::TensorView& view) {
                         const at::Tensor table = load_dense(view).to(device);
                         model.set_embedding(nn::Weight(table, compute), table);
                     }});
    const std::vector<nn::Linear*> linears = model.linears();
    const std::vector<const spec::Linear*> described = config.linears();
    TORCH_CHECK(linears.size() == described.size(), "a model has the linears of its description");
    for (std::size_t i = 0; i < linears.size(); ++i)
        add_linear(*linears[i], *described[i], config, options, slots);
    const std::vector<nn::Norm*> norms = model.norms();
    const std::vector<const spec::Norm*> described_norms = config.norms();
    TORCH_CHECK(norms.size() == described_norms.size(), "a model has the norms of its description");
    for (std::size_t i = 0; i < norms.size(); ++i) add_norm(*norms[i], *described_norms[i], compute, slots);
    if (!config.positions.empty()) {
        slots.push_back({config.positions + ".weight",
                         {config.max_position_embeddings, config.hidden_size},
                         [&model, device](const io::TensorView& view) {
                             model.set_positions(load_dense(view).to(device));
                         }});
    }
    if (config.head.bias) {
        slots.push_back(
            {config.head.path + ".bias", {config.vocab_size}, [&model, device](const io::TensorView& view) {
                 model.set_head_bias(load_dense(view).to(device));
             }});
    }
    if (!config.tie_word_embeddings) {
        slots.push_back({config.head_weight(),
                         {config.vocab_size, config.hidden_size},
                         [&model, compute, device](const io::TensorView& view) {
                             model.head() = nn::Weight(load_dense(view).to(device), compute);
                         }});
    }
    return slots;
}

/// A tied checkpoint may store the head too, but only as the same bytes.
void check_tied_head(const io::Checkpoint& checkpoint, const CheckpointNames& names,
                     const DecoderSpec& config, FaultList& faults) {
    const io::TensorView& head = checkpoint.at(names.in_file(config.head_weight()));
    const io::TensorView& table = checkpoint.at(names.in_file(config.embedding_weight()));
    if (head.dtype != table.dtype || !std::ranges::equal(head.bytes, table.bytes)) {
        faults.add(head.name, "differs from " + table.name +
                                  " although config.json says tie_word_embeddings: true; set it to false");
    }
    checkpoint.release(head.name);
    checkpoint.release(table.name);
}

void check_dense(const io::TensorView& view, const std::vector<std::int64_t>& shape, FaultList& faults) {
    if (view.shape != shape) {
        faults.add(view.name, "has shape " + io::shape_text(view.shape) + ", config.json asks for " +
                                  io::shape_text(shape));
    }
    if (view.dtype != io::DType::kF32 && view.dtype != io::DType::kF16 && view.dtype != io::DType::kBF16) {
        faults.add(view.name,
                   "has dtype " + std::string(io::name_of(view.dtype)) + "; F32, F16 and BF16 are supported");
    }
}

/// The blocksize of all matrices; one that differs from the first is a fault.
std::int64_t common_blocksize(const std::map<std::string, quant::BnbMatrix>& matrices, FaultList& faults) {
    const std::int64_t blocksize = matrices.begin()->second.blocksize;
    for (const auto& [name, matrix] : matrices) {
        if (matrix.blocksize == blocksize) continue;
        faults.add(name, "has blocksize " + std::to_string(matrix.blocksize) + ", " +
                             matrices.begin()->first + " has " + std::to_string(blocksize));
    }
    return blocksize;
}

/// Tensors of the checkpoint that the slots do not know.
void check_others(const io::Checkpoint& checkpoint, const CheckpointNames& names,
                  const std::set<std::string>& known, const DecoderSpec& config, FaultList& faults) {
    for (const std::string& name : checkpoint.names()) {
        if (names.is_foreign(name)) continue;
        const std::string parameter = names.parameter(name);
        if (names.in_file(parameter) != name) {
            faults.add(name, "is " + names.in_file(parameter) +
                                 " under another name, and the checkpoint holds both; remove one of them");
        } else if (known.contains(name) || config.ignores(parameter)) {
            continue;
        } else if (config.tie_word_embeddings && parameter == config.head_weight()) {
            check_tied_head(checkpoint, names, config, faults);
        } else {
            faults.add(name, "is not a parameter of a " + config.model_type + " model with this config.json");
        }
    }
}

std::string missing_text(const Slot& slot, const DecoderSpec& config) {
    return "is missing (expected shape " + io::shape_text(slot.shape) + ")" +
           (slot.name == config.head_weight() ? ", and tie_word_embeddings in config.json is not true, "
                                                "which would take it from the embedding"
                                              : "");
}

StoredQuantization check(const io::Checkpoint& checkpoint, const DecoderSpec& config,
                         const std::vector<Slot>& slots) {
    FaultList faults;
    const CheckpointNames names(checkpoint, config);
    std::set<std::string> known;
    StoredQuantization stored;
    bool any_in_4bit = false;
    for (const Slot& slot : slots) {
        const std::string in_file = names.in_file(slot.name);
        known.insert(in_file);
        if (slot.in_4bit) {
            any_in_4bit = true;
            for (const std::string& name : quant::bnb_state_names(in_file)) known.insert(name);
            // bitsandbytes' matrices are [out, in], also where the dense ones are not.
            const auto matrix =
                quant::read_bnb_matrix(checkpoint, in_file, slot.linear->out_features(),
                                       slot.linear->in_features(), *config.stored_in_4bit, faults);
            if (matrix) stored.matrices[slot.name] = *matrix;
        } else if (!checkpoint.contains(in_file)) {
            faults.add(in_file, missing_text(slot, config));
        } else {
            check_dense(checkpoint.at(in_file), slot.shape, faults);
        }
    }
    check_others(checkpoint, names, known, config, faults);
    if (config.stored_in_4bit && !any_in_4bit) {
        faults.add("config.json",
                   "has a quantization_config, yet its llm_int8_skip_modules leaves no linear");
    }
    if (!stored.matrices.empty()) {
        stored.config = quant::QuantConfig{.bnb_4bit_use_double_quant = config.stored_in_4bit->double_quant,
                                           .bnb_4bit_blocksize = common_blocksize(stored.matrices, faults)};
    }
    faults.throw_if_any<CheckpointError>(checkpoint.folder().string());
    return stored;
}

/// Stored weights are as they are: no other setting, and no matrix to train whole.
void require_as_stored(const io::Checkpoint& checkpoint, const StoredQuantization& stored,
                       const LoadOptions& options) {
    if (!stored.config) return;
    FaultList faults;
    for (const std::string& text : quant::contradictions(options.quantization, *stored.config)) {
        faults.add("", text + "; leave the setting out, or use the original model");
    }
    for (const auto& [weight, matrix] : stored.matrices) {
        const std::string path = weight.substr(0, weight.rfind('.'));
        if (!options.stays_dense || !options.stays_dense(path)) continue;
        faults.add(path,
                   "is to be trained whole (modules_to_save), but only its 4-bit values are stored; use "
                   "the original model");
    }
    faults.throw_if_any<ConfigError>(checkpoint.folder().string() + " is stored in 4 bits");
}

}  // namespace

std::map<std::string, const spec::Linear*> quantizable_weights(const DecoderSpec& config) {
    std::map<std::string, const spec::Linear*> weights;
    for (const spec::Linear* linear : config.linears()) {
        const bool left_dense = config.stored_in_4bit && linear->kind == spec::MatrixKind::kLinear &&
                                config.stored_in_4bit->skips(linear->path);
        if (linear->kind != spec::MatrixKind::kRouter && !left_dense)
            weights.emplace(linear->weight(), linear);
    }
    return weights;
}

StoredQuantization check_base(const io::Checkpoint& checkpoint, const DecoderSpec& config) {
    CausalLM empty(config, at::kFloat);
    return check(checkpoint, config, slots_of(empty, {}));
}

std::unique_ptr<CausalLM> load_base(const io::Checkpoint& checkpoint, const DecoderSpec& config,
                                    const LoadOptions& options) {
    auto model = std::make_unique<CausalLM>(config, options.compute_dtype);
    const std::vector<Slot> slots = slots_of(*model, options);
    const StoredQuantization stored = check(checkpoint, config, slots);
    require_as_stored(checkpoint, stored, options);
    const CheckpointNames names(checkpoint, config);
    for (const Slot& slot : slots) {
        const std::string in_file = names.in_file(slot.name);
        const auto matrix = stored.matrices.find(slot.name);
        if (matrix == stored.matrices.end()) {
            slot.place(checkpoint.at(in_file));
        } else {
            slot.linear->set_weight(
                nn::Weight(quant::load_quantized(matrix->second).to(options.device), options.compute_dtype));
            checkpoint.release(matrix->second.absmax->name);
        }
        checkpoint.release(in_file);
    }
    return model;
}

}  // namespace qlora::models
