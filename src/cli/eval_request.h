#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "flags.h"
#include "qlora/cli/run_config.h"
#include "session.h"

namespace qlora::cli {

/// The command line of qlora-eval; what was not given is empty.
struct EvalFlags {
    TextFlag config, model, adapter, data, format, template_name, quantization, device, per_token,
        generations;
    std::vector<std::string> overrides;
    std::optional<std::int64_t> max_length, limit, max_new_tokens, tokens_per_batch, prompts_per_batch;
    bool generate = false;
    bool base_only = false;
};

enum class BaseQuantization { kAuto, kNone, kNf4 };
constexpr EnumTable<BaseQuantization, 3> enum_table(BaseQuantization) {
    return {{{"auto", BaseQuantization::kAuto},
             {"none", BaseQuantization::kNone},
             {"nf4", BaseQuantization::kNf4}}};
}

/// What is evaluated: the settings of run.json, if there is one, with what the command line says instead.
struct EvalRequest {
    RunConfig settings;  ///< of these `model`, `quantization` and `data` count
    /// None: the rows that the run holds out of its training files.
    std::optional<std::filesystem::path> data;
    std::optional<std::filesystem::path> adapter;
    at::Device device = at::kCPU;
    BaseQuantization quantization = BaseQuantization::kAuto;
    /// With kAuto: the quantization of `settings` comes before what the adapter was trained on, or after it,
    /// or (unset) does not count.
    std::optional<bool> settings_come_first;
};

/// Throws ConfigError with all faults of the command line, or of the file.
EvalRequest eval_request(const EvalFlags& flags);

/// What the base is quantized with. `folder` is the request's model.
quant::QuantConfig base_quantization(const EvalRequest& request, const ModelFolder& folder);

}  // namespace qlora::cli
