#include "memory_options.h"

#include <algorithm>
#include <bit>

#include "qlora/adapters/plan.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"

namespace qlora::cli {
namespace {

/// The rows as data.max_length would leave them.
RowLengths shortened(const RowLengths& rows, std::int64_t max_length, data::Overlong overlong) {
    RowLengths out;
    for (std::size_t i = 0; i < rows.tokens.size(); ++i) {
        const std::int64_t cut = std::max<std::int64_t>(0, rows.tokens[i] - max_length);
        if (cut > 0 && overlong == data::Overlong::kDrop) continue;
        const std::int64_t supervised = std::max<std::int64_t>(0, rows.supervised[i] - cut);
        if (supervised == 0) continue;
        out.tokens.push_back(rows.tokens[i] - cut);
        out.supervised.push_back(supervised);
    }
    return out;
}

std::int64_t power_of_two_below(std::int64_t value) {
    return value < 2 ? 0 : static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(value - 1)));
}

}  // namespace

std::vector<train::MemoryOption> memory_options(const RunConfig& config, const models::DecoderSpec& model,
                                                const RowLengths& rows, const train::MemoryChoice& choice) {
    std::vector<train::MemoryOption> options;
    // Only what a setting changes is planned again.
    const auto add = [&](std::string setting, const auto& change) {
        train::MemoryRequest request = choice.request;
        change(request);
        options.push_back({std::move(setting), train::plan_memory(request).needed()});
    };
    const auto add_batch = [&](std::string setting, const auto& change) {
        RunConfig changed = config;
        change(changed);
        add(std::move(setting),
            [&](train::MemoryRequest& request) { set_micro_batch(request, changed, rows); });
    };
    const auto add_peft = [&](const adapters::SmallerSetting& setting) {
        RunConfig changed = config;
        changed.peft = setting.config;
        try {
            add(setting.text, [&](train::MemoryRequest& request) { set_trained(request, changed, model); });
        } catch (const ConfigError&) {
            // The other settings leave no room for this one: it is no option.
        }
    };

    if (const std::int64_t most = config.data.max_tokens_per_batch.value_or(0); most > 1) {
        add_batch(fmt::format("data.max_tokens_per_batch: {}", most / 2),
                  [&](RunConfig& changed) { changed.data.max_tokens_per_batch = most / 2; });
    } else if (const std::int64_t batch = config.training.per_device_train_batch_size;
               most == 0 && batch > 1) {
        add_batch(fmt::format("training.per_device_train_batch_size: {}", batch / 2),
                  [&](RunConfig& changed) { changed.training.per_device_train_batch_size = batch / 2; });
    }
    const auto longest = std::max_element(rows.tokens.begin(), rows.tokens.end());
    const std::int64_t shorter = longest == rows.tokens.end() ? 0 : power_of_two_below(*longest);
    if (const RowLengths kept = shortened(rows, shorter, config.data.overlong); !kept.tokens.empty()) {
        add(fmt::format("data.max_length: {}", shorter),
            [&](train::MemoryRequest& request) { set_micro_batch(request, config, kept); });
    }
    if (choice.recomputation != nn::Recomputation::kLayers) {
        add("training.gradient_checkpointing: true",
            [](train::MemoryRequest& request) { request.recomputation = nn::Recomputation::kLayers; });
    }
    if (choice.keep_dense) {
        add("training.cache_dequantized: false",
            [](train::MemoryRequest& request) { request.keep_dense = false; });
    }
    if (!config.quantization.load_in_4bit) {
        add("quantization.load_in_4bit: true",
            [](train::MemoryRequest& request) { request.quantization.load_in_4bit = true; });
    }
    if (config.model.adapter) return options;  // its configuration is what it is
    for (const adapters::SmallerSetting& setting : adapters::smaller_settings(config.peft, model))
        add_peft(setting);
    return options;
}

}  // namespace qlora::cli
