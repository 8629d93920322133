#include "dry_run.h"

#include <algorithm>
#include <map>

#include "qlora/adapters/trained_tensors.h"
#include "qlora/core/log.h"
#include "qlora/data/batch_plan.h"
#include "qlora/data/preview.h"
#include "qlora/train/adamw.h"
#include "training_plan.h"

namespace qlora::cli {
namespace {

constexpr std::int64_t kPreviewRows = 3;

/// Adapted modules by kind, "q_proj x 30 (r 8, scaling 2)".
std::string adapters_text(const adapters::MatchResult& match) {
    std::map<std::string, std::int64_t> kinds;
    for (const adapters::Target& target : match.targets) {
        const std::string kind = target.path.substr(target.path.rfind('.') + 1);
        ++kinds[fmt::format("{} (r {}, scaling {:g})", kind, target.r, target.scaling)];
    }
    std::string out;
    for (const auto& [kind, count] : kinds) out += fmt::format("  {} x {}\n", count, kind);
    for (const std::string& path : match.modules_to_save) out += "  trained whole: " + path + "\n";
    for (const std::string& warning : match.warnings) out += "  warning: " + warning + "\n";
    return out;
}

}  // namespace

train::MemoryRequest memory_request(const RunConfig& config, const ModelFolder& folder,
                                    const adapters::MatchResult& match, const data::Dataset& train,
                                    at::Device device) {
    train::MemoryRequest request{
        .config = folder.config,
        .quantization = config.quantization,
        .bytes_per_element = compute_dtype(config.quantization, device) == at::kFloat ? 4 : 2,
        .stored_bytes_per_weight = folder.config.dtype == "float32" ? 4 : 2,
        .keep_dense = train::keeps_dense(folder.config)};
    models::CausalLM empty(folder.config, at::kFloat);
    for (const adapters::TrainedTensor& tensor : adapters::trained_tensors(match, empty)) {
        const std::int64_t elements = adapters::trained_elements({tensor});
        request.trained_elements += elements;
        request.moment_bytes += train::moment_bytes(elements, config.training.optim);
    }
    std::vector<std::int64_t> lengths;
    for (const data::Example& example : train.examples) lengths.push_back(example.tokens());
    for (const data::StepPlan& step : data::plan_epoch(lengths, batch_plan_options(config), 0)) {
        for (const auto& micro_batch : step.micro_batches) {
            std::int64_t tokens = 0, supervised = 0;
            for (const std::int64_t place : micro_batch) {
                tokens += lengths[static_cast<std::size_t>(place)];
                supervised += train.examples[static_cast<std::size_t>(place)].supervised_tokens();
            }
            if (tokens > request.tokens) request.tokens = tokens;
            request.supervised_tokens = std::max(request.supervised_tokens, supervised);
        }
    }
    return request;
}

bool uses_gradient_checkpointing(const RunConfig& config, train::MemoryRequest request) {
    if (config.training.gradient_checkpointing != train::GradientCheckpointing::kAuto) {
        return config.training.gradient_checkpointing == train::GradientCheckpointing::kOn;
    }
    request.gradient_checkpointing = false;
    return train::plan_memory(request).total() > train::available_memory_bytes() / 10 * 9;
}

std::string dry_run_report(const RunConfig& config, const ModelFolder& folder,
                           const data::PromptTemplate& prompt_template, const data::Dataset& train,
                           const data::Dataset* eval, at::Device device) {
    const adapters::MatchResult match =
        adapters::match_targets(config.peft, adapters::module_infos(folder.config), folder.config.model_type);
    train::MemoryRequest request = memory_request(config, folder, match, train, device);
    request.gradient_checkpointing = uses_gradient_checkpointing(config, request);
    const models::CausalLM empty(folder.config, at::kFloat);
    const std::int64_t trainable = request.trained_elements;
    const std::int64_t total = empty.parameter_count();
    std::string out = fmt::format(
        "template: {}\n\nfirst rows:\n{}\ntraining data:\n{}\n", prompt_template.name(),
        data::preview_rows(train, *folder.tokenizer, kPreviewRows), data::describe(train.statistics));
    if (eval != nullptr) out += fmt::format("held-out data:\n{}\n", data::describe(eval->statistics));
    out += fmt::format("adapters on:\n{}", adapters_text(match));
    out += fmt::format("trainable parameters: {} of {} ({:.3f} %)\n", trainable, total,
                       100.0 * static_cast<double>(trainable) / static_cast<double>(total));
    out += fmt::format("gradient checkpointing: {}\n", request.gradient_checkpointing ? "on" : "off");
    out += train::plan_memory(request).text() + "\n";
    out += fmt::format("available memory: {}\n", train::gigabytes(train::available_memory_bytes()));
    return out;
}

}  // namespace qlora::cli
