#include "training_plan.h"

#include <algorithm>

#include "compute_dtype.h"
#include "qlora/core/log.h"
#include "qlora/train/adamw.h"

namespace qlora::cli {

data::BatchPlanOptions batch_plan_options(const RunConfig& config, const adapters::Plan& adapter) {
    return {.per_device_train_batch_size = config.training.per_device_train_batch_size,
            .max_tokens_per_batch = config.data.max_tokens_per_batch.value_or(0),
            .tokens_before = adapter.virtual_tokens,
            .gradient_accumulation_steps = config.training.gradient_accumulation_steps,
            .group_by_length = config.data.group_by_length,
            .seed = static_cast<std::uint64_t>(config.training.seed)};
}

RowLengths row_lengths(const data::Dataset& train, const data::Dataset* held_out) {
    RowLengths out;
    for (const data::Example& example : train.examples) {
        out.tokens.push_back(example.tokens());
        out.supervised.push_back(example.supervised_tokens());
    }
    out.held_bytes = data::held_bytes(train.examples);
    if (held_out != nullptr) out.held_bytes += data::held_bytes(held_out->examples);
    return out;
}

void set_micro_batch(train::MemoryRequest& request, const RunConfig& config, const RowLengths& rows) {
    const data::BatchPlanOptions options =
        batch_plan_options(config, adapters::plan_adapter(config.peft, request.config));
    request.tokens = request.supervised_tokens = request.longest_row = 0;
    for (const std::int64_t tokens : rows.tokens)
        request.longest_row = std::max(request.longest_row, tokens + options.tokens_before);
    for (const data::StepPlan& step : data::plan_epoch(rows.tokens, options, 0)) {
        for (const auto& micro_batch : step.micro_batches) {
            std::int64_t tokens = 0, supervised = 0;
            for (const std::int64_t place : micro_batch) {
                tokens += rows.tokens[static_cast<std::size_t>(place)] + options.tokens_before;
                supervised += rows.supervised[static_cast<std::size_t>(place)];
            }
            request.tokens = std::max(request.tokens, tokens);
            request.supervised_tokens = std::max(request.supervised_tokens, supervised);
        }
    }
}

void set_trained(train::MemoryRequest& request, const RunConfig& config, const models::DecoderSpec& model) {
    request.trained_elements = request.moment_bytes = 0;
    const adapters::Plan plan = adapters::plan_adapter(config.peft, model);
    request.kept_of_attention = plan.kept_of_attention;
    request.kept_of_mlp = plan.kept_of_mlp;
    request.head_rank = request.embedding_rank = 0;
    for (const adapters::Target& target : plan.targets) {
        if (target.is_head) request.head_rank = target.r;
        if (target.is_embedding) request.embedding_rank = target.r;
    }
    for (const adapters::TrainedTensor& tensor : plan.trained) {
        const std::int64_t elements = adapters::trained_elements({tensor});
        request.trained_elements += elements;
        request.moment_bytes += train::moment_bytes(elements, config.training.optim);
    }
}

std::string embedding_rate_text(const train::TrainingConfig& training, const adapters::Plan& plan) {
    if (!training.loraplus_lr_ratio) return {};
    const bool is_there =
        std::any_of(plan.trained.begin(), plan.trained.end(),
                    [](const adapters::TrainedTensor& tensor) { return tensor.of_embedding; });
    if (is_there)
        return fmt::format("LoRA+: LoRA on the embedding has the learning rate {:g} (loraplus_lr_embedding)",
                           training.loraplus_embedding_rate());
    if (!training.loraplus_lr_embedding) return {};
    return "training.loraplus_lr_embedding has no effect: there is no LoRA on the embedding";
}

train::MemoryRequest memory_request(const RunConfig& config, const models::DecoderSpec& model,
                                    const RowLengths& rows, at::Device device) {
    train::MemoryRequest request{
        .config = model,
        .quantization = config.quantization,
        .data_bytes = rows.held_bytes,
        .bytes_per_element = compute_dtype(config.quantization, device) == at::kFloat ? 4 : 2,
        .stored_bytes_per_weight = model.dtype == "float32" ? 4 : 2,
        .on_gpu = device.is_cuda()};
    set_micro_batch(request, config, rows);
    set_trained(request, config, model);
    return request;
}

}  // namespace qlora::cli
