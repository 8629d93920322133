#include <CLI/CLI.hpp>

#include "flags.h"
#include "model_writing.h"
#include "program.h"
#include "qlora/cli/commands.h"
#include "qlora/cli/run_config.h"
#include "qlora/core/log.h"
#include "qlora/models/quantize_checkpoint.h"
#include "qlora/train/memory_plan.h"
#include "trained_template.h"

namespace qlora::cli {
namespace {

struct QuantizeFlags {
    TextFlag model, output;
    std::vector<std::string> overrides;
};

Json quantize(const QuantizeFlags& flags, const std::function<bool()>& stop_requested) {
    const models::QuantizeRequest request{.model = *flags.model,
                                          .output = *flags.output,
                                          .config = quant_config_from_overrides(flags.overrides),
                                          .companions = model_companions(*flags.model),
                                          .stop_requested = stop_requested};
    const models::QuantizeReport report = models::quantize_checkpoint(request);
    spdlog::info("quantized {} matrices, {} became {}: {}", report.matrices,
                 train::gigabytes(report.bytes_before), train::gigabytes(report.bytes_after),
                 report.output.string());
    return {{"output", report.output.string()},  {"quantized", report.matrices},
            {"tensors", report.tensors},         {"bytes_before", report.bytes_before},
            {"bytes_after", report.bytes_after}, {"quantization", write_fields(request.config)}};
}

}  // namespace

int quantize_main(int argc, char** argv) {
    QuantizeFlags flags;
    Program program("qlora-quantize",
                    "Writes a model folder with its linear layers in 4 bits, as bitsandbytes stores them.");
    program.set_memory_advice(
        "quantizing takes about one matrix of the model and 100 MB; close other programs");
    add_model_flag(program.app(), flags.model)->required();
    add_output_flag(program.app(), flags.output)->required();
    add_set_flag(program.app(), flags.overrides);
    return program.run(argc, argv, [&] {
        return write_model_folder(*flags.output, [&](const std::function<bool()>& stop_requested) {
            return quantize(flags, stop_requested);
        });
    });
}

}  // namespace qlora::cli
