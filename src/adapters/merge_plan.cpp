#include "merge_plan.h"

#include <algorithm>
#include <set>
#include <utility>

#include "method.h"
#include "qlora/adapters/carried_tables.h"
#include "qlora/adapters/finished_adapter.h"
#include "qlora/adapters/lora.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/models/base_loader.h"

namespace qlora::adapters {
namespace {

io::DType output_dtype(MergeDtype wanted, io::DType base) {
    switch (wanted) {
        case MergeDtype::kFloat32:
            return io::DType::kF32;
        case MergeDtype::kBfloat16:
            return io::DType::kBF16;
        case MergeDtype::kFloat16:
            return io::DType::kF16;
        case MergeDtype::kAuto:
            break;
    }
    return base;
}

/// Of a base stored in 4 bits only the dequantized values can be merged onto, and only as training saw them.
void require_stored_base(const MergeInputs& inputs, const MergeRequest& request) {
    if (request.base == MergeBase::kOriginal) {
        throw ConfigError("--base original: " + request.model.string() +
                          " holds 4-bit weights only; give --model the original model, or add --base "
                          "dequantized to merge onto the 4-bit values");
    }
    for (const std::string& name : inputs.base.names()) {
        if (!inputs.names.is_foreign(name) || !name.ends_with(quant::kBnbState)) continue;
        throw ConfigError(request.model.string() + " holds 4-bit weights of other parts than the language " +
                          "model too (" + name +
                          "), which cannot be copied into a dense model; give --model " +
                          "the original model");
    }
    if (!inputs.trained_on) return;
    FaultList faults;
    for (const std::string& text : quant::contradictions(*inputs.trained_on, *inputs.stored.config))
        faults.add("", "trained with " + text);
    faults.throw_if_any<ConfigError>(inputs.adapter.path().string() + " does not fit the 4-bit weights of " +
                                     request.model.string());
}

void require_dequantizable(const MergeInputs& inputs, const MergeRequest& request) {
    if (inputs.stored.config) return require_stored_base(inputs, request);
    if (request.base != MergeBase::kDequantized) return;
    const std::string file = inputs.adapter.path().string();
    if (!inputs.trained_on) {
        throw ConfigError("--base dequantized: " + file +
                          " does not say how its base was quantized (metadata " + kQuantizationKey +
                          ", which qlora-train writes); use --base original");
    }
    if (!inputs.trained_on->load_in_4bit) {
        throw ConfigError("--base dequantized: " + file +
                          " was trained on a base that was not quantized; use --base original");
    }
}

/// The dtype that the weights of a base had before they were stored in 4 bits.
io::DType dtype_before(const quant::BnbMatrix& matrix, const models::DecoderSpec& config) {
    if (config.dtype == "bfloat16") return io::DType::kBF16;
    if (config.dtype == "float16") return io::DType::kF16;
    return config.dtype == "float32" ? io::DType::kF32 : matrix.dtype;
}

PlannedTensor plan_foreign(const TensorSource& base) {
    PlannedTensor out{
        .spec = {base.view->name, base.view->dtype, base.view->shape}, .source = base, .is_foreign = true};
    return out;
}

/// `name` is the parameter's.
PlannedTensor plan_tensor(const std::string& name, TensorSource base, const MergeInputs& inputs,
                          const MergeRequest& request) {
    if (const auto linear = inputs.linears.find(name); linear != inputs.linears.end())
        base.in_columns = linear->second->stored_in_columns;
    PlannedTensor out;
    out.source = base;
    io::DType stored = base.view->dtype;
    std::vector<std::int64_t> shape = base.view->shape;
    if (base.stored != nullptr) {
        stored = dtype_before(*base.stored, inputs.config);
        shape = {base.stored->rows, base.stored->columns};
        if (base.in_columns) std::swap(shape[0], shape[1]);
    }
    out.spec = {inputs.names.written(name),
                inputs.config.ignores(name) ? stored : output_dtype(request.dtype, stored), shape};
    if (const auto replacement = inputs.replacements.find(name); replacement != inputs.replacements.end()) {
        out.source = replacement->second;
        out.from_adapter = true;
        return out;
    }
    if (const auto carried = inputs.carried.find(name); carried != inputs.carried.end()) {
        out.source = carried->second;
        out.from_adapter = true;
    }
    out.quantizable = inputs.quantizable.contains(name);
    if (const auto update = inputs.updates.weights.find(name); update != inputs.updates.weights.end())
        out.update = &update->second;
    if (const auto bias = inputs.updates.biases.find(name); bias != inputs.updates.biases.end())
        out.bias = &bias->second;
    return out;
}

/// Tensors in the order in which the safetensors package writes them.
void sort_for_file(PlannedShard& shard) {
    std::vector<io::TensorSpec> specs;
    std::map<std::string, PlannedTensor> by_name;
    for (PlannedTensor& tensor : shard.tensors) {
        specs.push_back(tensor.spec);
        by_name[tensor.spec.name] = std::move(tensor);
    }
    shard.tensors.clear();
    for (const io::TensorSpec& spec : io::sorted_for_safetensors(std::move(specs))) {
        shard.tensors.push_back(std::move(by_name.at(spec.name)));
    }
}

/// Training on text alone leaves the updates of other parts at zero, as they began; what is more than that
/// would be lost in the merged model.
void require_no_foreign_updates(const AdapterFile& adapter) {
    adapter.log_foreign();
    for (const io::TensorView* view : adapter.foreign()) {
        const bool is_zero = std::all_of(view->bytes.begin(), view->bytes.end(),
                                         [](std::byte byte) { return byte == std::byte{0}; });
        if (is_zero || !view->name.ends_with(LoraLayer::kB)) continue;
        throw CheckpointError(adapter.path().string() + ": " + view->name +
                              " changes a part of the model that is not the language model, which cannot be "
                              "merged here; merge it with PEFT");
    }
}

}  // namespace

MergeInputs::MergeInputs(const MergeRequest& request)
    : config(models::load_decoder_spec(request.model)),
      base(request.model),
      names(base, config),
      stored(models::check_base(base, config)),
      adapter(request.adapter, config),
      plan(plan_adapter(load_finished_adapter(request.adapter, adapter, config), config)),
      trained_on(trained_quantization(request.adapter)) {
    models::log_passed_over(base, config);
    for (const std::string& warning : plan.warnings) spdlog::warn("{}", warning);
    std::vector<io::TensorSpec> expected;
    for (const TrainedTensor& tensor : plan.saved)
        expected.push_back({tensor.key, io::DType::kF32, tensor.shape});
    check_adapter_tensors(adapter, expected);
    require_no_foreign_updates(adapter);

    for (const models::spec::Linear* linear : config.linears()) linears.emplace(linear->weight(), linear);
    quantizable = models::quantizable_weights(config);
    const Method& method = method_of(plan.config);
    if (method.merge == nullptr) {
        throw ConfigError(adapter.path().parent_path().string() + ": " + std::string(method.why_not) +
                          "; qlora-eval runs it on its base");
    }
    updates = method.merge(plan, config, adapter);
    for (const TrainedTensor& tensor : plan.trained) {
        if (tensor.part == TrainedPart::kAdapter) continue;
        const char* parameter = tensor.part == TrainedPart::kWeight ? ".weight" : ".bias";
        replacements[tensor.module + parameter] = {&adapter.file(), &adapter.at(tensor.key)};
    }
    for (const CarriedTable& table : changed_tables(adapter, plan, base, config)) {
        carried[table.parameter] = {&adapter.file(), table.view};
        // One tensor of the base, of which an update may make two.
        if (config.tie_word_embeddings && table.parameter == config.embedding_weight())
            carried[config.head_weight()] = carried[table.parameter];
    }
    require_dequantizable(*this, request);
}

MergePlan plan_merge(const MergeInputs& inputs, const MergeRequest& request) {
    MergePlan plan;
    // Embedding and head share one tensor in the base; training one of them makes two tensors of it.
    const std::string head = inputs.config.head_weight(), embedding = inputs.config.embedding_weight();
    const auto changes = [&](const std::string& table) {
        const bool has_update = !inputs.updates.keeps_tie && inputs.updates.weights.contains(table);
        return has_update || inputs.replacements.contains(table);
    };
    plan.untied = inputs.config.tie_word_embeddings && (changes(head) || changes(embedding));
    const bool head_is_new = plan.untied && !inputs.names.holds(head);
    std::set<std::string> states;  // parts of matrices, which are merged with their weight
    for (const auto& [weight, matrix] : inputs.stored.matrices) {
        for (const std::string& name : quant::bnb_state_names(weight)) states.insert(name);
    }
    for (const io::SafetensorsFile& file : inputs.base.shards()) {
        PlannedShard shard{.file = file.path().filename().string(), .tensors = {}};
        for (const io::TensorView& view : file.tensors()) {
            if (inputs.names.is_foreign(view.name)) {
                shard.tensors.push_back(plan_foreign({&file, &view}));
                continue;
            }
            const std::string name = inputs.names.parameter(view.name);
            if (states.contains(name)) continue;
            const auto matrix = inputs.stored.matrices.find(name);
            const TensorSource source{&file, &view,
                                      matrix == inputs.stored.matrices.end() ? nullptr : &matrix->second};
            shard.tensors.push_back(plan_tensor(name, source, inputs, request));
            if (head_is_new && name == embedding) {
                shard.tensors.push_back(plan_tensor(head, source, inputs, request));
            }
        }
        sort_for_file(shard);
        // A shard of a 4-bit folder may hold quantization states only, and no tensor of the merged model.
        if (!shard.tensors.empty()) plan.shards.push_back(std::move(shard));
    }
    return plan;
}

}  // namespace qlora::adapters
