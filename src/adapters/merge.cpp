#include "qlora/adapters/merge.h"

#include "merge_files.h"
#include "merge_plan.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/atomic_folder.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/stopped.h"
#include "qlora/models/folder_writer.h"

namespace qlora::adapters {
namespace {

namespace fs = std::filesystem;

void require_same_base(const MergeRequest& request, const MergeInputs& inputs) {
    try {
        check_adapter_base(request.adapter, inputs.base);
    } catch (const CheckpointError& error) {
        if (!request.allow_other_base) {
            throw CheckpointError(std::string(error.what()) +
                                  ", or add --allow-other-base to merge all the same");
        }
        spdlog::warn("--allow-other-base: {}", error.what());
    }
}

void write_tensor(const PlannedTensor& tensor, const MergeRequest& request, MergeReport& report,
                  io::SafetensorsWriter& writer) {
    const io::DType dtype = tensor.spec.dtype;
    if (tensor.is_foreign) {
        write_copied(tensor.source, writer);
    } else if (tensor.update != nullptr) {
        std::optional<quant::QuantConfig> nf4;
        if (tensor.quantizable) nf4 = report.measured_with;
        LayerMeasure measure =
            write_merged(tensor.source, *tensor.update->load(), request.base, nf4, dtype, writer);
        measure.path = tensor.update->module;
        report.layers.push_back(std::move(measure));
    } else if (tensor.bias != nullptr) {
        write_changed(tensor.source, *tensor.bias, dtype, writer);
    } else if (tensor.quantizable && request.base == MergeBase::kDequantized) {
        write_dequantized(tensor.source, report.measured_with, dtype, writer);
    } else {
        write_converted(tensor.source, dtype, writer);
        if (tensor.from_adapter) report.replaced.push_back(tensor.spec.name);
    }
    ++report.tensors;
}

models::ShardSpecs specs_of(const PlannedShard& shard) {
    models::ShardSpecs out{.file = shard.file, .tensors = {}};
    for (const PlannedTensor& tensor : shard.tensors) out.tensors.push_back(tensor.spec);
    return out;
}

void write_shard(const PlannedShard& shard, const MergeRequest& request, const fs::path& folder,
                 MergeReport& report) {
    io::SafetensorsWriter writer(folder / shard.file, specs_of(shard).tensors, {{"format", "pt"}});
    for (const PlannedTensor& tensor : shard.tensors) {
        if (request.stop_requested && request.stop_requested()) throw Stopped();
        write_tensor(tensor, request, report, writer);
    }
    writer.finish();
    spdlog::info("wrote {}: {} tensors", shard.file, shard.tensors.size());
}

}  // namespace

MergeReport merge(const MergeRequest& request) {
    MergeReport report{.output = models::new_output_folder(request.output)};
    remove_leftovers_of(report.output);
    const MergeInputs inputs(request);
    require_same_base(request, inputs);
    const MergePlan plan = plan_merge(inputs, request);
    std::vector<models::ShardSpecs> shards;
    std::int64_t parameters = 0;
    for (const PlannedShard& shard : plan.shards) {
        shards.push_back(specs_of(shard));
        for (const io::TensorSpec& spec : shards.back().tensors) parameters += models::element_count(spec);
    }
    models::require_space(report.output, models::byte_count(shards), request.companions);

    report.untied = plan.untied;
    report.trained_on = inputs.trained_on;
    // What an adapter's base was quantized to, or would be by default.
    if (inputs.trained_on) report.measured_with = *inputs.trained_on;
    if (inputs.stored.config) {
        const quant::ComputeDtype compute = report.measured_with.bnb_4bit_compute_dtype;
        report.measured_with = *inputs.stored.config;
        report.measured_with.bnb_4bit_compute_dtype = compute;
    }
    write_folder_atomically(report.output, [&](const fs::path& folder) {
        for (const PlannedShard& shard : plan.shards) write_shard(shard, request, folder, report);
        models::write_shard_index(request.model, shards, parameters, folder);
        write_model_config(request.model, request.dtype, plan.untied, folder);
        models::write_companions(request.companions, folder);
    });
    return report;
}

}  // namespace qlora::adapters
