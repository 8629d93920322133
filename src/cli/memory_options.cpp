#include "memory_options.h"

#include <algorithm>
#include <bit>

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

std::vector<train::MemoryOption> memory_options(const RunConfig& config, const models::ModelConfig& model,
                                                const RowLengths& rows, const train::MemoryChoice& choice,
                                                at::Device device) {
    std::vector<train::MemoryOption> options;
    const auto add = [&](std::string setting, const RunConfig& changed, const RowLengths& lengths,
                         nn::Recomputation level) {
        train::MemoryRequest request = memory_request(changed, model, lengths, device);
        request.recomputation = level;
        request.keep_dense =
            choice.keep_dense && changed.training.cache_dequantized != train::CacheDequantized::kOff;
        options.push_back({std::move(setting), train::plan_memory(request).needed()});
    };
    const auto add_change = [&](std::string setting, const auto& change) {
        RunConfig changed = config;
        change(changed);
        add(std::move(setting), changed, rows, choice.recomputation);
    };

    if (const std::int64_t most = config.data.max_tokens_per_batch.value_or(0); most > 1) {
        add_change(fmt::format("data.max_tokens_per_batch: {}", most / 2),
                   [&](RunConfig& changed) { changed.data.max_tokens_per_batch = most / 2; });
    } else if (const std::int64_t batch = config.training.per_device_train_batch_size;
               most == 0 && batch > 1) {
        add_change(fmt::format("training.per_device_train_batch_size: {}", batch / 2),
                   [&](RunConfig& changed) { changed.training.per_device_train_batch_size = batch / 2; });
    }
    const auto longest = std::max_element(rows.tokens.begin(), rows.tokens.end());
    const std::int64_t shorter = longest == rows.tokens.end() ? 0 : power_of_two_below(*longest);
    if (const RowLengths kept = shortened(rows, shorter, config.data.overlong); !kept.tokens.empty()) {
        add(fmt::format("data.max_length: {}", shorter), config, kept, choice.recomputation);
    }
    if (choice.recomputation != nn::Recomputation::kLayers) {
        add("training.gradient_checkpointing: true", config, rows, nn::Recomputation::kLayers);
    }
    if (choice.keep_dense) {
        add_change("training.cache_dequantized: false", [](RunConfig& changed) {
            changed.training.cache_dequantized = train::CacheDequantized::kOff;
        });
    }
    if (!config.quantization.load_in_4bit) {
        add_change("quantization.load_in_4bit: true",
                   [](RunConfig& changed) { changed.quantization.load_in_4bit = true; });
    }
    if (config.model.adapter) return options;  // its configuration is what it is
    if (config.peft.r > 1) {
        add_change(fmt::format("peft.r: {}", config.peft.r / 2),
                   [](RunConfig& changed) { changed.peft.r /= 2; });
    }
    add_change(R"(peft.target_modules: ["q_proj", "v_proj"])", [](RunConfig& changed) {
        changed.peft.target_modules = adapters::NameList{"q_proj", "v_proj"};
    });
    if (config.peft.modules_to_save) {
        add_change("peft.modules_to_save: null",
                   [](RunConfig& changed) { changed.peft.modules_to_save.reset(); });
    }
    return options;
}

}  // namespace qlora::cli
