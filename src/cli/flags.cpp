#include "flags.h"

#include <CLI/CLI.hpp>

namespace qlora::cli {

CLI::Option* add_config_flag(CLI::App& app, TextFlag& value) {
    return app.add_option("--config", value, "the run's JSON file");
}

CLI::Option* add_set_flag(CLI::App& app, std::vector<std::string>& values) {
    return app.add_option("--set", values, "a setting of run.json: section.key=value; may be repeated")
        ->take_all();
}

CLI::Option* add_model_flag(CLI::App& app, TextFlag& value) {
    return app.add_option("--model", value, "the model's folder (Hugging Face's format)");
}

CLI::Option* add_adapter_flag(CLI::App& app, TextFlag& value) {
    return app.add_option("--adapter", value, "the adapter's folder (PEFT's format)");
}

CLI::Option* add_output_flag(CLI::App& app, TextFlag& value) {
    return app.add_option("--output", value, "folder for the model that is written; new or empty");
}

CLI::Option* add_device_flag(CLI::App& app, TextFlag& value) {
    return app.add_option("--device", value, "auto (a GPU when there is one), cpu, cuda or cuda:N");
}

CLI::Option* add_quantization_flag(CLI::App& app, TextFlag& value) {
    return app.add_option(
        "--quantization", value,
        "auto (what the adapter was trained on, else what the folder holds; the default), none, or "
        "nf4 (blocksize 64, double quantization)");
}

CLI::Option* add_tokens_per_batch_flag(CLI::App& app, std::optional<std::int64_t>& value) {
    return app
        .add_option("--tokens-per-batch", value,
                    "rows are evaluated together up to so many tokens (1024); changes no result")
        ->check(CLI::Range(1, 1 << 24));
}

}  // namespace qlora::cli
