#include "qlora/adapters/merge.h"

#include "merge_files.h"
#include "merge_plan.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/atomic_folder.h"
#include "qlora/core/disk_space.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"

namespace qlora::adapters {
namespace {

namespace fs = std::filesystem;

/// Room for headers, index and what a file system takes itself.
constexpr std::uint64_t kSpareBytes = 16 << 20;

/// Without a trailing slash, so that the folder has a name.
fs::path output_folder(const MergeRequest& request) {
    fs::path out = fs::absolute(request.output).lexically_normal();
    if (!out.has_filename()) out = out.parent_path();
    std::error_code error;
    if (!fs::exists(out, error)) return out;
    if (!fs::is_directory(out, error))
        throw ConfigError("--output: " + out.string() + " is a file; give a new folder");
    if (!fs::is_empty(out, error) || error) {
        throw ConfigError("--output: " + out.string() +
                          " is not empty; choose another folder or remove it first");
    }
    return out;
}

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

void require_space(const MergeRequest& request, const MergePlan& plan, const fs::path& output) {
    std::uint64_t needed = kSpareBytes + static_cast<std::uint64_t>(plan.bytes);
    std::error_code error;
    for (const fs::path& file : request.files_to_copy) {
        const std::uintmax_t size = fs::file_size(file, error);
        if (!error) needed += size;
    }
    require_free_space(output, needed);
}

LowRankUpdate load_update(const PlannedUpdate& update) {
    return {.a = load_fp32(update.a), .b = load_fp32(update.b), .scaling = update.scaling};
}

void write_tensor(const PlannedTensor& tensor, const MergeRequest& request, MergeReport& report,
                  io::SafetensorsWriter& writer) {
    const io::DType dtype = tensor.spec.dtype;
    if (tensor.update != nullptr) {
        LayerMeasure measure = write_merged(tensor.source, load_update(*tensor.update), request.base,
                                            report.measured_with, dtype, writer);
        measure.path = tensor.update->module;
        report.layers.push_back(std::move(measure));
    } else if (tensor.dequantized) {
        write_dequantized(tensor.source, report.measured_with, dtype, writer);
    } else {
        write_converted(tensor.source, dtype, writer);
        if (tensor.from_adapter) report.replaced.push_back(tensor.spec.name);
    }
    ++report.tensors;
}

void write_shard(const PlannedShard& shard, const MergeRequest& request, const fs::path& folder,
                 MergeReport& report) {
    std::vector<io::TensorSpec> specs;
    for (const PlannedTensor& tensor : shard.tensors) specs.push_back(tensor.spec);
    io::SafetensorsWriter writer(folder / shard.file, std::move(specs), {{"format", "pt"}});
    for (const PlannedTensor& tensor : shard.tensors) {
        if (request.stop_requested && request.stop_requested()) throw MergeStopped();
        write_tensor(tensor, request, report, writer);
    }
    writer.finish();
    spdlog::info("wrote {}: {} tensors", shard.file, shard.tensors.size());
}

}  // namespace

MergeReport merge(const MergeRequest& request) {
    MergeReport report{.output = output_folder(request)};
    const MergeInputs inputs(request);
    require_same_base(request, inputs);
    const MergePlan plan = plan_merge(inputs, request);
    require_space(request, plan, report.output);

    report.untied = plan.untied;
    report.trained_on = inputs.trained_on;
    // What an adapter's base was quantized to, or would be by default.
    if (inputs.trained_on) report.measured_with = *inputs.trained_on;
    write_folder_atomically(report.output, [&](const fs::path& folder) {
        for (const PlannedShard& shard : plan.shards) write_shard(shard, request, folder, report);
        write_shard_index(request.model, plan, folder);
        write_model_config(request.model, request.dtype, plan.untied, folder);
        for (const fs::path& file : request.files_to_copy) copy_file_synced(file, folder);
    });
    return report;
}

}  // namespace qlora::adapters
