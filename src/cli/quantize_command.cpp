#include <CLI/CLI.hpp>
#include <iostream>
#include <new>

#include "program.h"
#include "qlora/cli/commands.h"
#include "qlora/cli/run_config.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/models/quantize_checkpoint.h"
#include "qlora/train/memory_plan.h"
#include "qlora/train/stop_signal.h"
#include "session.h"
#include "threads.h"

namespace qlora::cli {
namespace {

struct QuantizeFlags {
    std::string model, output;
    std::vector<std::string> overrides;
};

Json quantize_result(const models::QuantizeReport& report, const quant::QuantConfig& config) {
    return {{"output", report.output.string()},  {"quantized", report.matrices},
            {"tensors", report.tensors},         {"bytes_before", report.bytes_before},
            {"bytes_after", report.bytes_after}, {"quantization", write_fields(config)}};
}

int quantize(const QuantizeFlags& flags) {
    const train::StopSignal stop_signal;
    set_threads(std::nullopt);
    const at::AutoGradMode no_gradients(false);
    const models::QuantizeRequest request{
        .model = flags.model,
        .output = flags.output,
        .config = quant_config_from_overrides(flags.overrides),
        .files_to_copy = files_beside_weights(flags.model),
        .stop_requested = [] { return train::StopSignal::received() != 0; }};
    try {
        const models::QuantizeReport report = models::quantize_checkpoint(request);
        spdlog::info("quantized {} matrices, {} became {}: {}", report.matrices,
                     train::gigabytes(report.bytes_before), train::gigabytes(report.bytes_after),
                     report.output.string());
        std::cout << quantize_result(report, request.config).dump() << std::endl;
        return 0;
    } catch (const models::QuantizeStopped&) {
        spdlog::info("stopped by a signal; {} has not been written", request.output.string());
        return 128 + train::StopSignal::received();
    } catch (const std::bad_alloc&) {
        throw ResourceError(
            "memory ran out while quantizing, which takes about one matrix of the model and 100 MB; close "
            "other programs");
    }
}

}  // namespace

int quantize_main(int argc, char** argv) {
    QuantizeFlags flags;
    Program program("qlora-quantize",
                    "Writes a model folder with its linear layers in 4 bits, as bitsandbytes stores them.");
    CLI::App& app = program.app();
    app.add_option("--model", flags.model, "the model's folder")->required();
    app.add_option("--output", flags.output, "folder for the quantized model; new or empty")->required();
    app.add_option("--set", flags.overrides, "a quantization setting: quantization.key=value")->take_all();
    return program.run(argc, argv, [&] { return quantize(flags); });
}

}  // namespace qlora::cli
