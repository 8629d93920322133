#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "qlora/adapters/peft_config.h"
#include "qlora/cli/run_config.h"
#include "qlora/core/field_types.h"
#include "session.h"

namespace qlora::cli {

/// What `--quantization` says.
enum class BaseQuantization { kAuto, kNone, kNf4 };
constexpr EnumTable<BaseQuantization, 3> enum_table(BaseQuantization) {
    return {{{"auto", BaseQuantization::kAuto},
             {"none", BaseQuantization::kNone},
             {"nf4", BaseQuantization::kNf4}}};
}

/// A model that is measured, not trained.
struct ModelRequest {
    RunConfig settings;  ///< of these `model`, `quantization` and `data` count
    std::optional<std::filesystem::path> adapter;
    at::Device device = at::kCPU;
    BaseQuantization quantization = BaseQuantization::kAuto;
    /// With kAuto: the quantization of `settings` comes before what the adapter was trained on, or after it,
    /// or (unset) does not count.
    std::optional<bool> settings_come_first;
};

/// What the base is quantized with. `folder` is the request's model, here and below.
quant::QuantConfig base_quantization(const ModelRequest& request, const ModelFolder& folder);

/// The configuration of the adapter, if there is one, which must be one of this base's.
std::optional<adapters::PeftConfig> finished_adapter(const ModelRequest& request, const ModelFolder& folder);

/// Whether dense forms of the weights, whose making costs as much as several passes do without them, will
/// serve many: false, or null for "when memory allows".
std::optional<bool> keeps_dense(std::int64_t tokens, std::int64_t tokens_per_batch);

/// The model with the adapter whose configuration is `peft`.
LoadedModel load_model(const ModelRequest& request, const ModelFolder& folder,
                       const quant::QuantConfig& quantization,
                       const std::optional<adapters::PeftConfig>& peft, std::optional<bool> keep_dense);

}  // namespace qlora::cli
