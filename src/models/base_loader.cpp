#include "qlora/models/base_loader.h"

#include <algorithm>
#include <set>
#include <sstream>

#include "qlora/core/error.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora::models {
namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::ostringstream out;
    out << '[';
    for (std::size_t i = 0; i < shape.size(); ++i) out << (i ? ", " : "") << shape[i];
    out << ']';
    return out.str();
}

/// A parameter the architecture needs: its checkpoint name and shape, and what to do with the tensor.
struct Slot {
    std::string name;
    std::vector<std::int64_t> shape;
    std::function<void(const io::TensorView&)> place;
};

/// A dense parameter; one that is not finite is refused like a damaged quantized one.
at::Tensor load_dense(const io::TensorView& view) {
    at::Tensor tensor = quant::tensor_from_view(view);
    if (!tensor.isfinite().all().item<bool>()) {
        throw CheckpointError("tensor " + view.name +
                              " holds a value that is not finite; the checkpoint is damaged");
    }
    return tensor;
}

std::vector<Slot> slots_of(CausalLM& model, const LoadOptions& options) {
    const ModelConfig& config = model.config();
    const at::ScalarType compute = options.compute_dtype;
    std::vector<Slot> slots;
    slots.push_back({CausalLM::kEmbeddingWeight,
                     {config.vocab_size, config.hidden_size},
                     [&model, compute](const io::TensorView& view) {
                         const at::Tensor table = load_dense(view);
                         model.set_embedding(nn::Weight(table, compute), table);
                     }});
    for (nn::Linear* linear : model.linears()) {
        const bool quantized = options.quantization.load_in_4bit &&
                               !(options.stays_dense && options.stays_dense(linear->path()));
        slots.push_back({linear->path() + ".weight",
                         {linear->out_features(), linear->in_features()},
                         [linear, quantized, compute, &options](const io::TensorView& view) {
                             linear->set_weight(
                                 quantized ? nn::Weight(quant::quantize(view, options.quantization), compute)
                                           : nn::Weight(load_dense(view), compute));
                         }});
        if (linear->has_bias()) {
            slots.push_back({linear->path() + ".bias",
                             {linear->out_features()},
                             [linear](const io::TensorView& view) { linear->set_bias(load_dense(view)); }});
        }
    }
    for (nn::RmsNorm* norm : model.norms()) {
        slots.push_back({norm->path() + ".weight", {norm->size()}, [norm](const io::TensorView& view) {
                             norm->set_weight(load_dense(view));
                         }});
    }
    if (!config.tie_word_embeddings) {
        slots.push_back({CausalLM::kHeadWeight,
                         {config.vocab_size, config.hidden_size},
                         [&model, compute](const io::TensorView& view) {
                             model.head() = nn::Weight(load_dense(view), compute);
                         }});
    }
    return slots;
}

/// A tied checkpoint may store the head too, but only as the same bytes.
void check_tied_head(const io::Checkpoint& checkpoint, FaultList& faults) {
    const io::TensorView& head = checkpoint.at(CausalLM::kHeadWeight);
    const io::TensorView& table = checkpoint.at(CausalLM::kEmbeddingWeight);
    if (head.dtype != table.dtype || !std::ranges::equal(head.bytes, table.bytes)) {
        faults.add(head.name, "differs from " + table.name +
                                  " although config.json says tie_word_embeddings: true; set it to false");
    }
    checkpoint.release(head.name);
    checkpoint.release(table.name);
}

void check(const io::Checkpoint& checkpoint, const ModelConfig& config, const std::vector<Slot>& slots) {
    FaultList faults;
    std::set<std::string> known;
    for (const Slot& slot : slots) {
        known.insert(slot.name);
        if (!checkpoint.contains(slot.name)) {
            faults.add(slot.name, "is missing (expected shape " + shape_text(slot.shape) + ")");
            continue;
        }
        const io::TensorView& view = checkpoint.at(slot.name);
        if (view.shape != slot.shape) {
            faults.add(slot.name, "has shape " + shape_text(view.shape) + ", config.json asks for " +
                                      shape_text(slot.shape));
        }
        if (view.dtype != io::DType::kF32 && view.dtype != io::DType::kF16 &&
            view.dtype != io::DType::kBF16) {
            faults.add(slot.name, "has dtype " + std::string(io::name_of(view.dtype)) +
                                      "; F32, F16 and BF16 are supported");
        }
    }
    for (const std::string& name : checkpoint.names()) {
        if (known.contains(name) || is_recomputed_buffer(name)) continue;
        if (config.tie_word_embeddings && name == CausalLM::kHeadWeight &&
            checkpoint.contains(CausalLM::kEmbeddingWeight)) {
            check_tied_head(checkpoint, faults);
            continue;
        }
        faults.add(name, "is not a parameter of a " + config.model_type + " model with this config.json");
    }
    faults.throw_if_any<CheckpointError>(checkpoint.folder().string());
}

}  // namespace

bool is_recomputed_buffer(const std::string& name) {
    return name.ends_with(".self_attn.rotary_emb.inv_freq") || name == "model.rotary_emb.inv_freq";
}

void check_base(const io::Checkpoint& checkpoint, const ModelConfig& config) {
    CausalLM empty(config, at::kFloat);
    check(checkpoint, config, slots_of(empty, {}));
}

std::unique_ptr<CausalLM> load_base(const io::Checkpoint& checkpoint, const ModelConfig& config,
                                    const LoadOptions& options) {
    auto model = std::make_unique<CausalLM>(config, options.compute_dtype);
    const std::vector<Slot> slots = slots_of(*model, options);
    check(checkpoint, config, slots);
    for (const Slot& slot : slots) {
        slot.place(checkpoint.at(slot.name));
        checkpoint.release(slot.name);
    }
    return model;
}

}  // namespace qlora::models
