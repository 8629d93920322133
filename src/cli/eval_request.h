#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "flags.h"
#include "model_request.h"

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

/// What is evaluated: the settings of run.json, if there is one, with what the command line says instead.
struct EvalRequest : ModelRequest {
    /// None: the rows that the run holds out of its training files.
    std::optional<std::filesystem::path> data;
};

/// Throws ConfigError with all faults of the command line, or of the file.
EvalRequest eval_request(const EvalFlags& flags);

}  // namespace qlora::cli
