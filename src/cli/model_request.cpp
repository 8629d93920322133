#include "model_request.h"

#include <utility>

#include "qlora/adapters/finished_adapter.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/log.h"

namespace qlora::cli {
namespace {

/// `wanted`, which `who` asks for, must be what is stored in 4 bits, if something is.
quant::QuantConfig as_stored(const quant::QuantConfig& wanted, const ModelFolder& folder,
                             const std::string& who) {
    if (!folder.stored) return wanted;
    FaultList faults;
    for (const std::string& text : quant::contradictions(wanted, *folder.stored)) faults.add(who, text);
    faults.throw_if_any<ConfigError>(folder.folder.string() +
                                     " is stored in 4 bits; use the original model, or --quantization auto");
    return wanted;
}

}  // namespace

quant::QuantConfig base_quantization(const ModelRequest& request, const ModelFolder& folder) {
    quant::QuantConfig none;
    none.load_in_4bit = false;
    if (request.quantization == BaseQuantization::kNf4) return as_stored({}, folder, "--quantization nf4");
    if (request.quantization == BaseQuantization::kNone)
        return as_stored(none, folder, "--quantization none");
    std::optional<quant::QuantConfig> trained;
    if (request.adapter && !request.settings_come_first.value_or(false))
        trained = adapters::trained_quantization(*request.adapter);
    if (trained) return as_stored(*trained, folder, request.adapter->string() + " was trained with");
    if (!request.settings_come_first) return folder.stored.value_or(none);
    RunConfig settings = request.settings;
    adopt_stored_quantization(settings, folder.stored);
    return settings.quantization;
}

std::optional<adapters::PeftConfig> finished_adapter(const ModelRequest& request, const ModelFolder& folder) {
    if (!request.adapter) return std::nullopt;
    adapters::PeftConfig out = adapters::load_finished_adapter(
        *request.adapter, adapters::AdapterFile(*request.adapter, folder.config), folder.config);
    check_adapter_base(*request.adapter, folder);
    return out;
}

std::optional<bool> keeps_dense(std::int64_t tokens, std::int64_t tokens_per_batch) {
    constexpr std::int64_t kFewPasses = 16;
    if (tokens > kFewPasses * tokens_per_batch) return std::nullopt;
    return false;
}

LoadedModel load_model(const ModelRequest& request, const ModelFolder& folder,
                       const quant::QuantConfig& quantization,
                       const std::optional<adapters::PeftConfig>& peft, std::optional<bool> keep_dense) {
    spdlog::info("base {}{}", quantization.load_in_4bit ? "quantized to NF4" : "as on disk",
                 request.adapter ? ", adapter " + request.adapter->string() : ", no adapter");
    return load_model(folder, quantization,
                      {.config = peft ? &*peft : nullptr, .folder = request.adapter, .finished = true},
                      request.device, keep_dense);
}

}  // namespace qlora::cli
